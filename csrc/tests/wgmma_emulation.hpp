// Warpgroup products on the processor: the names of cuda/wgmma.cuh.
//
// Descriptors, swizzling and fragments follow the PTX manual and share nothing with the kernels. A
// product reads its right operand when it is begun and again when it is waited for, and the two
// must be the same; in between, its sums are NaN and its left operand must stay as it is. Shared
// memory that a copy has filled must have been fenced by the thread that made the copy. Mistakes in
// this fail the launch. Not seen: plain stores to shared memory, and reads of sums that are still
// NaN, which show in the results.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tests/cuda_emulation.hpp"

namespace icm_fast::cuda {

// Forgets everything about the block before.
void start_warpgroups(std::size_t n_threads);

// As in the shared window of a block, the first 1,024 bytes of which are the system's.
std::uint32_t shared_address(const void* pointer);
void fence_proxy_async();
void wgmma_fence();
void wgmma_commit();
void wgmma_wait_for(std::size_t n_pending);

template <int kPending>
void wgmma_wait() {
    wgmma_wait_for(kPending);
}

// A compiler for the processor needs no such hints.
template <typename Registers>
void pin(const Registers& /*registers*/) {}
inline void settle(float /*number*/) {}

// What one thread brings to a product.
struct WgmmaThread {
    float* sum;  // [n_blocks][4]
    const std::uint32_t* a;
    std::uint64_t b_descriptor;
    std::size_t n_blocks;  // of eight columns
    bool transposed;
    bool accumulate;
    float (*widen)(std::uint16_t);

    bool operator==(const WgmmaThread&) const = default;
};
void begin_wgmma(const WgmmaThread& thread);

template <typename Element, bool kTransposed, std::size_t kBlocks>
void wgmma(float (&sum)[kBlocks][4], const std::uint32_t (&a)[4], std::uint64_t b_descriptor,
           bool accumulate) {
    begin_wgmma({sum[0], a, b_descriptor, kBlocks, kTransposed, accumulate, Element::widen});
}

// Byte address of element (k, n) of a right operand of 16-bit numbers.
std::uint32_t wgmma_element(std::uint64_t descriptor, bool transposed, std::uint32_t k,
                            std::uint32_t n);

}  // namespace icm_fast::cuda
