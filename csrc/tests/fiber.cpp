// The hardened longjmp takes a jump to another stack for a mistake.
#undef _FORTIFY_SOURCE
#include "tests/fiber.hpp"

#include <utility>

#ifdef __SANITIZE_ADDRESS__
#define ICM_FAST_ADDRESS_SANITIZER
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ICM_FAST_ADDRESS_SANITIZER
#endif
#endif

#ifdef ICM_FAST_ADDRESS_SANITIZER
#include <sanitizer/common_interface_defs.h>
#endif

namespace icm_fast::tests {
namespace {

#ifdef ICM_FAST_ADDRESS_SANITIZER
constexpr std::size_t kStackBytes = 128 * 1024;
#else
constexpr std::size_t kStackBytes = 64 * 1024;
#endif

// makecontext passes integers only, so the two of the first switch wait here.
Fiber* entering = nullptr;
Fiber* leaving = nullptr;

void leave_stack([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* bottom,
                 [[maybe_unused]] std::size_t size) {
#ifdef ICM_FAST_ADDRESS_SANITIZER
    __sanitizer_start_switch_fiber(fake_stack, bottom, size);
#endif
}

void arrive_on_stack([[maybe_unused]] void* fake_stack, [[maybe_unused]] const void** bottom,
                     [[maybe_unused]] std::size_t* size) {
#ifdef ICM_FAST_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(fake_stack, bottom, size);
#endif
}

}  // namespace

Fiber::Fiber(std::function<void()> work)
    : work_(std::move(work)), stack_(kStackBytes), bottom_(stack_.data()), size_(stack_.size()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_.data();
    context_.uc_stack.ss_size = stack_.size();
    makecontext(&context_, &Fiber::enter, 0);
}

void Fiber::enter() { entering->begin(); }

void Fiber::begin() {
    started_ = true;
    // Where the first switch came from is known now, and that is where the caller's stack lies.
    arrive_on_stack(nullptr, &leaving->bottom_, &leaving->size_);
    work_();
}

// swapcontext would save the signal mask with two system calls each time; so it is only for the
// first switch, which needs the new stack.
void Fiber::switch_to(Fiber& other) {
    leave_stack(&fake_stack_, other.bottom_, other.size_);
    if (_setjmp(place_) == 0) {
        if (other.started_ || other.stack_.empty()) _longjmp(other.place_, 1);
        entering = &other;
        leaving = this;
        setcontext(&other.context_);
    }
    arrive_on_stack(fake_stack_, nullptr, nullptr);
}

}  // namespace icm_fast::tests
