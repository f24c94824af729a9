// Stacks that take turns on one thread of the operating system.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <functional>
#include <vector>

namespace icm_fast::tests {

class Fiber {
  public:
    // The caller's own stack, to come back to.
    Fiber() = default;
    // `work` is called at the first switch and must not return.
    explicit Fiber(std::function<void()> work);
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;
    Fiber(Fiber&&) = delete;
    Fiber& operator=(Fiber&&) = delete;
    ~Fiber() = default;

    // Leaves this fiber, which is the one that runs, for `other`, until somebody switches back.
    void switch_to(Fiber& other);

  private:
    static void enter();
    void begin();

    std::function<void()> work_;
    std::vector<char> stack_;
    ucontext_t context_{};
    jmp_buf place_{};
    bool started_ = false;
    // What the address sanitizer wants to know of a stack.
    void* fake_stack_ = nullptr;
    const void* bottom_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace icm_fast::tests
