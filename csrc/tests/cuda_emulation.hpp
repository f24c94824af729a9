// A CUDA device on the processor, for tests: the names of cuda/device.cuh, and what CUDA itself
// gives to a kernel.
//
// Every thread of a block is a fiber. Blocks run one after the other; in a block, one warp runs
// until all its lanes wait at a barrier, then the next one. That is the worst order for a kernel
// that forgot a barrier: a warp that is ahead reads what was not written yet, or overwrites what
// others have still to read. Shared memory begins as NaN, and a copy to it arrives when its thread
// waits for it, not before; until then the target is NaN. What a warp does together, it does lane
// by lane in the layouts that the PTX manual gives. One launch at a time; not thread-safe.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define ICM_FAST_UNROLL

struct EmulatedIndex {
    unsigned x = 0;
    unsigned y = 0;
};
// Of the thread that runs.
inline EmulatedIndex threadIdx;
inline EmulatedIndex blockIdx;

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) uint4 {
    std::uint32_t x, y, z, w;
};

void __syncthreads();
void __syncwarp();
float __shfl_xor_sync(std::uint32_t mask, float value, int lane_mask);
int __any_sync(std::uint32_t mask, int predicate);

namespace icm_fast::cuda {

inline constexpr const char* kDeviceType = "cpu";
inline constexpr std::size_t kEmulatedLanes = 32;

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

// Formats of 16 bits.
struct Bfloat16 {
    static float widen(std::uint16_t bits);
    static std::uint16_t round(float value);
};
struct Float16 {
    static float widen(std::uint16_t bits);
    static std::uint16_t round(float value);
};

struct Grid {
    std::int32_t x;
    std::int32_t y;
};

// What the launches since the last reset did.
struct EmulationCounts {
    std::int64_t blocks = 0;
    std::int64_t matrix_products = 0;     // m16n8k16
    std::int64_t warpgroup_products = 0;  // m64nNk16
    std::int64_t copied_bytes = 0;        // to shared memory
    std::int64_t boxes = 0;               // of many rows, copied at once
    std::int64_t bank_conflicts =
        0;  // rows of a matrix that ldmatrix had to read one after another
};
EmulationCounts& emulation_counts();

enum class WarpOrder { kFirstToLast, kLastToFirst };
void set_warp_order(WarpOrder order);

unsigned char* shared_memory();
void cp_async_16(void* target, const void* source, bool valid);
void cp_async_wait_all();
void ldmatrix(std::uint32_t (&matrices)[4], const std::uint16_t* row);
void ldmatrix_transposed(std::uint32_t (&matrices)[4], const std::uint16_t* row);

// The operands of one lane.
struct MmaLane {
    std::array<std::uint32_t, 4> a;
    std::array<std::uint32_t, 2> b;
    std::array<float, 4> sum;
};
template <typename Element>
std::array<float, 4> mma_lane(const MmaLane& operands);

template <typename Element>
void mma(float (&sum)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    const std::array<float, 4> result =
        mma_lane<Element>({{a[0], a[1], a[2], a[3]}, {b0, b1}, {sum[0], sum[1], sum[2], sum[3]}});
    for (std::size_t i = 0; i < 4; ++i) sum[i] = result[i];
}

template <typename Element>
std::uint32_t pack(float low, float high) {
    return Element::round(low) | static_cast<std::uint32_t>(Element::round(high)) << 16U;
}

inline float power_of_two(float x) {
    const float power = std::exp2(x);
    return power < 0x1p-126F ? 0.0F : power;
}
inline float binary_logarithm(float x) { return std::log2(x); }
inline float quotient(float numerator, float denominator) { return numerator / denominator; }

struct EmulatedLaunch {
    Grid grid;
    std::int32_t n_threads;
    std::int32_t n_shared;
    std::function<void()> thread;
};
// A status; device_status_text has what went wrong.
std::int32_t run_launch(const EmulatedLaunch& launch);
const char* device_status_text(std::int32_t status);

template <typename Call>
std::int32_t launch(void (*kernel)(Call), Grid grid, std::int32_t n_threads, std::int32_t n_shared,
                    void* /*stream*/, const Call& call) {
    return run_launch({grid, n_threads, n_shared, [&] { kernel(call); }});
}

}  // namespace icm_fast::cuda
