// A few threads that run one function together, with a barrier among them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

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
    // `n_threads` >= 1 includes the caller of `run`.
    explicit ThreadPool(std::int32_t n_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;
    ThreadPool(ThreadPool&&) = delete;
    ThreadPool& operator=(ThreadPool&&) = delete;

    [[nodiscard]] std::int32_t size() const { return n_threads_; }
    // Calls work(thread) once per thread, 0 .. size - 1, and returns when all are done. `work` must
    // not throw. One call at a time.
    void run(const std::function<void(std::int32_t)>& work);
    // For use inside `work`, by every thread.
    void synchronize() { barrier_.wait(); }

  private:
    void serve(std::int32_t thread);

    const std::int32_t n_threads_;
    Barrier barrier_;
    const std::function<void(std::int32_t)>* work_ = nullptr;
    std::atomic<std::uint32_t> started_{0};
    bool stopping_ = false;
    std::vector<std::thread> threads_;
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
