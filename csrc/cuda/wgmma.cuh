// Warpgroup products of compute capability 9.0 (PTX: wgmma, for sm_90a alone) by name; the native
// tests have the same names in tests/wgmma_emulation.hpp. Include after the device's instructions.
//
// A product is begun by all 128 threads of a warpgroup and goes on while they do other things.
// Until it was waited for, its registers belong to it: sums and left operand alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace icm_fast::cuda {

// What this thread wrote to shared memory, by copies that have arrived too, is there for products
// once a barrier follows: they read by another way than threads do.
__device__ __forceinline__ void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// Between a thread's own use of registers and the first product that uses them.
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}

// Makes a group of the products begun since the last one.
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

// Waits until no more than the last `kPending` groups go on.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving uses of registers past this place: to it, a product is done when
// it is begun.
template <std::size_t kRows>
__device__ __forceinline__ void pin(float (&registers)[kRows][4]) {
    ICM_FAST_UNROLL
    for (std::size_t n = 0; n < kRows; ++n) {
        ICM_FAST_UNROLL
        for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(registers[n][i])::"memory");
    }
}

template <std::size_t kRows>
__device__ __forceinline__ void pin(std::uint32_t (&registers)[kRows][4]) {
    ICM_FAST_UNROLL
    for (std::size_t n = 0; n < kRows; ++n) {
        ICM_FAST_UNROLL
        for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(registers[n][i])::"memory");
    }
}

// Makes the assembler compute a number, which is never negative, before what follows. It moves
// arithmetic behind a wait otherwise, and nothing is done while products go on; it does not move
// stores, not even one that never happens.
__device__ __forceinline__ void settle(float number) {
    asm volatile(
        "{\n.reg .pred negative;\nsetp.lt.f32 negative, %0, 0f00000000;\n"
        "@negative st.volatile.shared.f32 [%1], %0;\n}\n" ::"f"(number),
        "r"(shared_address(shared_memory()))
        : "memory");
}

#define ICM_FAST_SUM(n) "+f"(sum[n][0]), "+f"(sum[n][1]), "+f"(sum[n][2]), "+f"(sum[n][3])
#define ICM_FAST_SUMS(n)                                                            \
    ICM_FAST_SUM(n), ICM_FAST_SUM(n + 1), ICM_FAST_SUM(n + 2), ICM_FAST_SUM(n + 3), \
        ICM_FAST_SUM(n + 4), ICM_FAST_SUM(n + 5), ICM_FAST_SUM(n + 6), ICM_FAST_SUM(n + 7)
#define ICM_FAST_NAMES_32                                                    \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define ICM_FAST_NAMES_64                                                                \
    ICM_FAST_NAMES_32                                                                    \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// `names`: of the sums; then the operands' places: left ones, descriptor, predicate, transposition.
#define ICM_FAST_WGMMA(shape, type, names, a0, a1, a2, a3, b, p, t, ...)                  \
    asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, " p                  \
                 ", 0;\n"                                                                 \
                 "wgmma.mma_async.sync.aligned." shape ".f32." type "." type " {" names   \
                 "}, "                                                                    \
                 "{" a0 ", " a1 ", " a2 ", " a3 "}, " b ", accumulate, 1, 1, " t ";\n}\n" \
                 : __VA_ARGS__                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b_descriptor),         \
                   "r"(static_cast<std::int32_t>(accumulate)), "n"(kTransposed ? 1 : 0)   \
                 : "memory")
#define ICM_FAST_WGMMA_64(type)                                                                    \
    ICM_FAST_WGMMA("m64n64k16", type, ICM_FAST_NAMES_32, "%32", "%33", "%34", "%35", "%36", "%37", \
                   "%38", ICM_FAST_SUMS(0))
#define ICM_FAST_WGMMA_128(type)                                                             \
    ICM_FAST_WGMMA("m64n128k16", type, ICM_FAST_NAMES_64, "%64", "%65", "%66", "%67", "%68", \
                   "%69", "%70", ICM_FAST_SUMS(0), ICM_FAST_SUMS(8))

// Begins sum = a b, or sum += a b with `accumulate`: a is 64 x 16 in registers, each warp with 16
// rows as for `mma`; b is 16 x 8 kBlocks in shared memory, where its columns lie one after the
// other (their numbers side by side), or its rows if `kTransposed`.
template <typename Element, bool kTransposed, std::size_t kBlocks>
__device__ __forceinline__ void wgmma(float (&sum)[kBlocks][4], const std::uint32_t (&a)[4],
                                      std::uint64_t b_descriptor, bool accumulate) {
    static_assert(kBlocks == 8 || kBlocks == 16);
    if constexpr (std::is_same_v<Element, Bfloat16>) {
        if constexpr (kBlocks == 8) {
            ICM_FAST_WGMMA_64("bf16");
        } else {
            ICM_FAST_WGMMA_128("bf16");
        }
    } else {
        if constexpr (kBlocks == 8) {
            ICM_FAST_WGMMA_64("f16");
        } else {
            ICM_FAST_WGMMA_128("f16");
        }
    }
}

#undef ICM_FAST_WGMMA_128
#undef ICM_FAST_WGMMA_64
#undef ICM_FAST_WGMMA
#undef ICM_FAST_NAMES_64
#undef ICM_FAST_NAMES_32
#undef ICM_FAST_SUMS
#undef ICM_FAST_SUM

}  // namespace icm_fast::cuda
