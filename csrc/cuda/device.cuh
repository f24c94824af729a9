// The instructions of a device that the kernels use, by name. The native tests have the same names
// in tests/cuda_emulation.hpp, so that the kernels' source runs on a processor, too.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#define ICM_FAST_UNROLL _Pragma("unroll")

namespace icm_fast::cuda {

inline constexpr const char* kDeviceType = "cuda";

struct Bfloat16 {};
struct Float16 {};

struct Grid {
    std::int32_t x;
    std::int32_t y;
};

// Shared memory of the block, as much as the launch asked for. Swizzled tiles of warpgroup products
// begin at multiples of 1,024 bytes.
__device__ __forceinline__ unsigned char* shared_memory() {
    extern __shared__ __align__(1024) unsigned char memory[];
    return memory;
}

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// Begins to copy 16 bytes to shared memory past the registers; zeros where `valid` is false,
// without reading the source.
__device__ __forceinline__ void cp_async_16(void* target, const void* source, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(target)),
                 "l"(source), "r"(valid ? 16 : 0)
                 : "memory");
}

// Waits for this thread's copies; a barrier has to follow before other threads read them.
__device__ __forceinline__ void cp_async_wait_all() {
    asm volatile("cp.async.wait_all;\n" ::: "memory");
}

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void ldmatrix(std::uint32_t (&matrices)[4], const std::uint16_t* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_transposed(std::uint32_t (&matrices)[4],
                                                    const std::uint16_t* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// sum += a b for a 16 x 16 and b 16 x 8, spread over a warp.
template <typename Element>
__device__ __forceinline__ void mma(float (&sum)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1);

template <>
__device__ __forceinline__ void mma<Bfloat16>(float (&sum)[4], const std::uint32_t (&a)[4],
                                              std::uint32_t b0, std::uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma<Float16>(float (&sum)[4], const std::uint32_t (&a)[4],
                                             std::uint32_t b0, std::uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two numbers rounded to 16 bits each, `low` in the lower half.
template <typename Element>
__device__ __forceinline__ std::uint32_t pack(float low, float high);

template <>
__device__ __forceinline__ std::uint32_t pack<Bfloat16>(float low, float high) {
    std::uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

template <>
__device__ __forceinline__ std::uint32_t pack<Float16>(float low, float high) {
    std::uint32_t packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// 2^x; results below the smallest normal number are zero.
__device__ __forceinline__ float power_of_two(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(power) : "f"(x));
    return power;
}

__device__ __forceinline__ float binary_logarithm(float x) { return __log2f(x); }

__device__ __forceinline__ float quotient(float numerator, float denominator) {
    return __fdividef(numerator, denominator);
}

// Enqueues kernel(call), one block for each point of the grid.
template <typename Call>
std::int32_t launch(void (*kernel)(Call), Grid grid, std::int32_t n_threads, std::int32_t n_shared,
                    void* stream, const Call& call) {
    // What a kernel may have without asking.
    constexpr std::int32_t kUnasked = 48 * 1024;
    if (n_shared > kUnasked) {
        const cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, n_shared);
        if (error != cudaSuccess) {
            cudaGetLastError();  // else the next launch would report it as its own
            return error;
        }
    }
    kernel<<<dim3(grid.x, grid.y), n_threads, n_shared, static_cast<cudaStream_t>(stream)>>>(call);
    return cudaGetLastError();
}

inline const char* device_status_text(std::int32_t status) {
    return cudaGetErrorString(static_cast<cudaError_t>(status));
}

}  // namespace icm_fast::cuda
