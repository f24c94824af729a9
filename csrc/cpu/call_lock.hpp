// One caller at a time, in a process that may fork.
#pragma once

#include <unistd.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <stdexcept>

namespace icm_fast::cpu {

// A mutex that remembers the process of its owner. A child that is forked while another thread is
// inside inherits a lock that nobody will ever leave, around memory that may be half changed: it is
// told so instead of waiting.
class CallLock {
  public:
    // A turn inside the lock, for the scope it stands in.
    class Turn {
      public:
        // Waits. Throws std::runtime_error if the call inside was cut off by a fork.
        explicit Turn(CallLock& lock) : lock_(&lock) { lock.enter(); }
        // Waits. `renew` replaces what a call that was cut off by a fork may have left half
        // changed.
        template <typename Renew>
        Turn(CallLock& lock, const Renew& renew) : lock_(&lock) {
            lock.enter(renew);
        }
        // Takes over a lock that `try_enter` has entered.
        Turn(CallLock& lock, std::adopt_lock_t /*entered*/) : lock_(&lock) {}
        ~Turn() { lock_->leave(); }
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;
        Turn(Turn&&) = delete;
        Turn& operator=(Turn&&) = delete;

      private:
        CallLock* lock_;
    };

    CallLock() = default;
    ~CallLock() = default;
    CallLock(const CallLock&) = delete;
    CallLock& operator=(const CallLock&) = delete;
    CallLock(CallLock&&) = delete;
    CallLock& operator=(CallLock&&) = delete;

    // Whether it was free and is now held. Throws as Turn does.
    [[nodiscard]] bool try_enter() {
        const pid_t found = take_if(kFree);
        if (found == kFree) return true;
        if (found != getpid()) refuse();
        return false;
    }

    // Whether a fork cut off the call inside.
    [[nodiscard]] bool is_cut_off() const {
        const pid_t owner = owner_.load(std::memory_order_acquire);
        return owner != kFree && owner != getpid();
    }

  private:
    static constexpr pid_t kFree = 0;

    // Takes the lock if `expected` holds it; returns who held it.
    pid_t take_if(pid_t expected) {
        owner_.compare_exchange_strong(expected, getpid(), std::memory_order_acquire);
        return expected;
    }

    void enter() {
        while (!try_enter()) owner_.wait(getpid(), std::memory_order_relaxed);
    }

    template <typename Renew>
    void enter(const Renew& renew) {
        const pid_t self = getpid();
        for (;;) {
            const pid_t found = take_if(kFree);
            if (found == kFree) return;
            if (found == self) {
                owner_.wait(self, std::memory_order_relaxed);
            } else if (take_if(found) == found) {
                renew_or_leave(renew, found);
                return;
            }
        }
    }

    template <typename Renew>
    void renew_or_leave(const Renew& renew, pid_t found) {
        try {
            renew();
        } catch (...) {
            owner_.store(found, std::memory_order_release);
            owner_.notify_all();
            throw;
        }
    }

    void leave() {
        owner_.store(kFree, std::memory_order_release);
        owner_.notify_one();
    }

    [[noreturn]] static void refuse() {
        throw std::runtime_error(
            "this process was forked while another thread was in a call of this object; make it "
            "anew in the child, or start children by spawn");
    }

    std::atomic<pid_t> owner_{kFree};
};

// Gives up an object without freeing it: in a forked child, its threads are not there, and a call
// that was cut off may have left it half changed.
template <typename T>
void abandon(std::unique_ptr<T>& owner) {
    [[maybe_unused]] const T* const left = owner.release();
}

}  // namespace icm_fast::cpu
