// Copies of many rows by one instruction of one thread, from memory where they lie one behind the
// other (PTX: cp.async.bulk.tensor, since sm_90). The device has them in shared memory as
// warpgroup products read them, and a barrier there counts their bytes. The native tests have the
// same names in tests/box_copies_emulation.hpp.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/tree_attention.hpp"
#include "cuda/warp_roles.cuh"

// A parameter that stays where the launch put it, so that the device can be given its address.
#define ICM_FAST_GRID_CONSTANT __grid_constant__

namespace icm_fast::cuda {

// A pool as the copying unit sees it.
using BoxMap = CUtensorMap;

// Boxes of `n_rows` rows and 64 columns, which are a panel of 128 bytes to a row. False where the
// driver does not know how, or does not take these strides.
inline bool map_boxes(BoxMap& map, const HeadRows& pool, std::int32_t n_heads, std::int32_t n_slots,
                      std::int32_t head_dim, Dtype dtype, std::int32_t n_rows) {
    // By name from the driver that runs, so that nothing here has to be linked with it.
    using Encode = decltype(&cuTensorMapEncodeTiled);
    static const Encode encode = [] {
        void* found = nullptr;
        cudaDriverEntryPointQueryResult result{};
        constexpr const char* kName = "cuTensorMapEncodeTiled";
#if CUDART_VERSION >= 12050
        constexpr unsigned kSince = 12000;
        const cudaError_t error =
            cudaGetDriverEntryPointByVersion(kName, &found, kSince, cudaEnableDefault, &result);
#else
        const cudaError_t error =
            cudaGetDriverEntryPoint(kName, &found, cudaEnableDefault, &result);
#endif
        if (error == cudaSuccess && result == cudaDriverEntryPointSuccess) {
            return reinterpret_cast<Encode>(found);
        }
        cudaGetLastError();  // else the next launch would report it as its own
        return static_cast<Encode>(nullptr);
    }();
    if (encode == nullptr) return false;
    const auto size = [](std::int64_t n) { return static_cast<cuuint64_t>(n); };
    const cuuint64_t sizes[3] = {size(head_dim), size(n_slots), size(n_heads)};
    // A single head may be at any distance from the next one, which is not there.
    const std::int64_t head_stride = n_heads > 1 ? pool.head_stride : n_slots * pool.row_stride;
    const cuuint64_t strides[2] = {size(2 * pool.row_stride), size(2 * head_stride)};
    const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(n_rows), 1};
    const cuuint32_t steps[3] = {1, 1, 1};
    const CUtensorMapDataType type = dtype == Dtype::kBfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                               : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    return encode(&map, type, 3, pool.data, sizes, strides, box, steps,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// The barrier's phase is not over before so many bytes have been copied; by a thread that has still
// to arrive at it, and before the copies.
__device__ __forceinline__ void expect_bytes(StageBarrier& barrier, int n_bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;\n" ::"r"(
                     shared_address(&barrier)),
                 "r"(n_bytes)
                 : "memory");
}

// Begins to copy a box: columns from `column` on of the rows from `slot` on of one head. Products
// that waited for the barrier may read it without a fence.
__device__ __forceinline__ void copy_box(void* target, const BoxMap& map, int column, int slot,
                                         int head, StageBarrier& barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4}], [%5];\n" ::"r"(shared_address(target)),
        "l"(reinterpret_cast<std::uint64_t>(&map)), "r"(column), "r"(slot), "r"(head),
        "r"(shared_address(&barrier))
        : "memory");
}

}  // namespace icm_fast::cuda
