#include "cpu/thread_pool.hpp"

#include <unistd.h>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/call_lock.hpp"

namespace icm_fast::cpu {
namespace {

constexpr int kSpins = 20000;

inline void pause() {
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

// Returns once `value` is no longer `old`.
void wait_for_change(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
    for (int spin = 0; spin < kSpins; ++spin) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
    }
    while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

void Barrier::wait() {
    const std::uint32_t round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_threads_) {
        arrived_.store(0, std::memory_order_relaxed);
        round_.store(round + 1, std::memory_order_release);
        round_.notify_all();
    } else {
        wait_for_change(round_, round);
    }
}

// The threads of one process, and what they share.
class ThreadPool::Team {
  public:
    explicit Team(std::int32_t n_threads) : barrier_(n_threads) {
        threads_.reserve(static_cast<std::size_t>(n_threads - 1));
        try {
            for (std::int32_t thread = 1; thread < n_threads; ++thread) {
                threads_.emplace_back([this, thread] { serve(thread); });
            }
        } catch (const std::system_error& error) {
            const std::size_t n_started = threads_.size();
            stop();
            throw std::runtime_error("only " + std::to_string(n_started + 1) + " of " +
                                     std::to_string(n_threads) + " threads could be started (" +
                                     error.what() + "); ask for fewer, for instance by " +
                                     "OMP_NUM_THREADS");
        } catch (...) {
            stop();
            throw;
        }
    }
    ~Team() { stop(); }
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;
    Team(Team&&) = delete;
    Team& operator=(Team&&) = delete;

    // Whether its threads run in this process.
    [[nodiscard]] bool is_here() const { return process_ == getpid(); }

    void run(const std::function<void(std::int32_t)>& work) {
        work_ = &work;
        started_.fetch_add(1, std::memory_order_release);
        started_.notify_all();
        work(0);
        synchronize();
    }
    void synchronize() { barrier_.wait(); }

  private:
    void serve(std::int32_t thread) {
        for (std::uint32_t seen = 0;; ++seen) {
            wait_for_change(started_, seen);
            if (stopping_) return;
            (*work_)(thread);
            synchronize();
        }
    }

    void stop() {
        stopping_ = true;
        started_.fetch_add(1, std::memory_order_release);
        started_.notify_all();
        for (std::thread& thread : threads_) thread.join();
        threads_.clear();
    }

    const pid_t process_ = getpid();
    Barrier barrier_;
    const std::function<void(std::int32_t)>* work_ = nullptr;
    std::atomic<std::uint32_t> started_{0};
    bool stopping_ = false;
    std::vector<std::thread> threads_;
};

namespace {

std::int32_t checked_threads(std::int32_t n_threads) {
    if (n_threads >= 1 && n_threads <= ThreadPool::kMaxThreads) return n_threads;
    throw std::invalid_argument("n_threads is " + std::to_string(n_threads) + ", outside 1 .. " +
                                std::to_string(ThreadPool::kMaxThreads));
}

}  // namespace

ThreadPool::ThreadPool(std::int32_t n_threads)
    : n_threads_(checked_threads(n_threads)), team_(std::make_unique<Team>(n_threads)) {}

ThreadPool::~ThreadPool() {
    // In a forked child there are no threads to join, only the memory that described them.
    if (team_ && !team_->is_here()) abandon(team_);
}

void ThreadPool::run(const std::function<void(std::int32_t)>& work) {
    if (!team_->is_here()) {
        auto team = std::make_unique<Team>(n_threads_);
        abandon(team_);
        team_ = std::move(team);
    }
    team_->run(work);
}

void ThreadPool::synchronize() { team_->synchronize(); }

}  // namespace icm_fast::cpu
