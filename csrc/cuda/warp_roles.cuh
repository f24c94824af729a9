// What warps with different tasks tell each other by: barriers, and registers that change hands
// (PTX: mbarrier, bar, setmaxnreg, for sm_90a alone). The native tests have the same names in
// tests/warp_roles_emulation.hpp. Include after the device's instructions.
#pragma once

#include <cstdint>

namespace icm_fast::cuda {

// A barrier in shared memory that some arrive at and others wait for. It counts arrivals in phases;
// a phase ends with the last arrival expected, and the next one begins.
struct alignas(8) StageBarrier {
    std::uint64_t state;
};

// One thread does it before a barrier of all threads.
__device__ __forceinline__ void start_barrier(StageBarrier& barrier, int n_arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(&barrier)),
                 "r"(n_arrivals)
                 : "memory");
}

// What this thread did before is seen by threads that waited for the phase; by products, if it
// fenced that first.
__device__ __forceinline__ void arrive_at(StageBarrier& barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(&barrier))
                 : "memory");
}

// Waits until the phase with this number is over. Its last bit tells, so the barrier has to be in
// this phase or in the next one.
__device__ __forceinline__ void wait_for_phase(StageBarrier& barrier, int phase) {
    asm volatile(
        "{\n.reg .pred over;\nWAIT:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
        "@over bra OVER;\nbra WAIT;\nOVER:\n}\n" ::"r"(shared_address(&barrier)),
        "r"(phase & 1)
        : "memory");
}

// Barriers by number, for whole warps; 0 is that of __syncthreads.
__device__ __forceinline__ void meet(int barrier, int n_threads) {
    asm volatile("bar.sync %0, %1;\n" ::"r"(barrier), "r"(n_threads) : "memory");
}

// The same where `really`, and coming without waiting for the others. Neither is a branch: products
// that go on behind the end of one would be waited for there.
__device__ __forceinline__ void meet_if(bool really, int barrier, int n_threads) {
    asm volatile(
        "{\n.reg .pred really;\nsetp.ne.b32 really, %0, 0;\n@really bar.sync %1, %2;\n}\n" ::"r"(
            static_cast<int>(really)),
        "r"(barrier), "r"(n_threads)
        : "memory");
}

__device__ __forceinline__ void announce_if(bool really, int barrier, int n_threads) {
    asm volatile(
        "{\n.reg .pred really;\nsetp.ne.b32 really, %0, 0;\n@really bar.arrive %1, %2;\n}\n" ::"r"(
            static_cast<int>(really)),
        "r"(barrier), "r"(n_threads)
        : "memory");
}

// Makes a group of the copies begun since the last one.
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

// Waits until no more than the last `kPending` groups of this thread's copies are under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// A thread of this warpgroup has `kCount` registers from here on; fewer than before, or more, for
// which it waits until others gave them up.
template <int kCount>
__device__ __forceinline__ void give_up_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kCount));
}

template <int kCount>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kCount));
}

}  // namespace icm_fast::cuda
