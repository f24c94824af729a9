#include "cpu/thread_pool.hpp"

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

ThreadPool::ThreadPool(std::int32_t n_threads) : n_threads_(n_threads), barrier_(n_threads) {
    for (std::int32_t thread = 1; thread < n_threads; ++thread) {
        threads_.emplace_back([this, thread] { serve(thread); });
    }
}

ThreadPool::~ThreadPool() {
    stopping_ = true;
    started_.fetch_add(1, std::memory_order_release);
    started_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(const std::function<void(std::int32_t)>& work) {
    work_ = &work;
    started_.fetch_add(1, std::memory_order_release);
    started_.notify_all();
    work(0);
    synchronize();
}

void ThreadPool::serve(std::int32_t thread) {
    for (std::uint32_t seen = 0;; ++seen) {
        wait_for_change(started_, seen);
        if (stopping_) return;
        (*work_)(thread);
        synchronize();
    }
}

}  // namespace icm_fast::cpu
