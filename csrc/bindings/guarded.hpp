// Native objects that several threads of Python may call.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <utility>

#include "cpu/call_lock.hpp"

namespace icm_fast {

// A turn of a thread that holds the GIL. It waits without the GIL: whoever is inside may need it to
// get out.
class PythonTurn {
  public:
    explicit PythonTurn(cpu::CallLock& lock) {
        if (lock.try_enter()) {
            turn_.emplace(lock, std::adopt_lock);
            return;
        }
        const pybind11::gil_scoped_release waiting;
        turn_.emplace(lock);
    }

  private:
    std::optional<cpu::CallLock::Turn> turn_;
};

// An object that is not thread-safe, and the lock around its calls.
template <typename T>
class Guarded {
  public:
    template <typename... Arguments>
    explicit Guarded(std::in_place_t /*made here*/, Arguments&&... arguments)
        : object_(std::make_unique<T>(std::forward<Arguments>(arguments)...)) {}
    // What a call that a fork cut off has left may be half changed: it is not freed.
    ~Guarded() {
        if (lock_.is_cut_off()) cpu::abandon(object_);
    }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;
    Guarded(Guarded&&) = delete;
    Guarded& operator=(Guarded&&) = delete;

    // work(object) for a thread that holds the GIL, with the GIL.
    template <typename Work>
    auto call(const Work& work) {
        const PythonTurn turn(lock_);
        return work(*object_);
    }
    // For a thread that does not hold it.
    template <typename Work>
    auto call_unlocked(const Work& work) {
        const cpu::CallLock::Turn turn(lock_);
        return work(*object_);
    }

  private:
    std::unique_ptr<T> object_;
    cpu::CallLock lock_;
};

}  // namespace icm_fast
