// A few threads that run one function together, with a barrier among them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

namespace icm_fast::cpu {

// A barrier that spins for a short while, then sleeps: the parts between barriers are short, but
// the processor may be shared.
class Barrier {
  public:
    explicit Barrier(std::int32_t n_threads) : n_threads_(n_threads) {}

    // Returns once every thread has arrived; what each wrote before is visible to all.
    void wait();

  private:
    const std::int32_t n_threads_;
    std::atomic<std::int32_t> arrived_{0};
    std::atomic<std::uint32_t> round_{0};
};

class ThreadPool {
  public:
    static constexpr std::int32_t kMaxThreads = 4096;

    // `n_threads` includes the caller of `run`. Throws std::invalid_argument where it is outside
    // 1 .. kMaxThreads, std::runtime_error where the system starts fewer; none then stays behind.
    explicit ThreadPool(std::int32_t n_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;
    ThreadPool(ThreadPool&&) = delete;
    ThreadPool& operator=(ThreadPool&&) = delete;

    [[nodiscard]] std::int32_t size() const { return n_threads_; }
    // Calls work(thread) once per thread, 0 .. size - 1, and returns when all are done. `work` must
    // not throw. One call at a time. The first call in a forked child starts threads anew, and
    // throws as the constructor does before any work.
    void run(const std::function<void(std::int32_t)>& work);
    // For use inside `work`, by every thread.
    void synchronize();

  private:
    class Team;

    const std::int32_t n_threads_;
    std::unique_ptr<Team> team_;
};

// Numbers 0 .. n - 1, each handed out once, to whichever thread asks next.
class Tickets {
  public:
    void reset() { next_.store(0, std::memory_order_relaxed); }
    [[nodiscard]] std::int64_t take() { return next_.fetch_add(1, std::memory_order_relaxed); }

  private:
    std::atomic<std::int64_t> next_{0};
};

}  // namespace icm_fast::cpu
