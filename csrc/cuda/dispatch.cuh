// Picks the kernel of a call and launches it. Include after the device's instructions.
#pragma once

#include <cstdint>
#include <limits>

#include "cuda/tree_attention.cuh"
#include "cuda/warpgroup_attention.hpp"

namespace icm_fast::cuda {

template <typename Element, int kHeadDim, bool kSoftcap>
std::int32_t launch_tiles(const AttentionCall& call, void* stream) {
    if (takes_wgmma(call.products, kHeadDim)) return attend_by_warpgroups(call, stream);
    const Grid tiles{call.n_tiles, call.n_kv_heads};
    return launch(attend_tile<Element, kHeadDim, kSoftcap>, tiles, kThreads,
                  TileShape<kHeadDim>::kBytes, stream, call);
}

template <typename Element, int kHeadDim, bool kSoftcap>
std::int32_t launch_kernels(const AttentionCall& call, void* stream) {
    const std::int32_t status = launch_tiles<Element, kHeadDim, kSoftcap>(call, stream);
    if (status != kOk || call.n_merges == 0) return status;
    const Grid merges{call.n_merges, call.n_kv_heads};
    return launch(merge_partials<Element, kHeadDim>, merges, kThreads, 0, stream, call);
}

template <typename Element, int kHeadDim>
std::int32_t pick_softcap(const AttentionCall& call, void* stream) {
    return call.softcap > 0.0F ? launch_kernels<Element, kHeadDim, true>(call, stream)
                               : launch_kernels<Element, kHeadDim, false>(call, stream);
}

template <typename Element>
std::int32_t pick_head_dim(const AttentionCall& call, void* stream) {
    switch (call.head_dim) {
        case 64:
            return pick_softcap<Element, 64>(call, stream);
        case 128:
            return pick_softcap<Element, 128>(call, stream);
        case 256:
            return pick_softcap<Element, 256>(call, stream);
        default:
            return kUnsupportedHeadDim;
    }
}

inline std::int32_t pick_dtype(const AttentionCall& call, void* stream) {
    switch (static_cast<Dtype>(call.dtype)) {
        case Dtype::kBfloat16:
            return pick_head_dim<Bfloat16>(call, stream);
        case Dtype::kFloat16:
            return pick_head_dim<Float16>(call, stream);
        default:
            return kUnsupportedDtype;
    }
}

// Whether every row begins at a multiple of the 16 bytes that are copied at once.
inline bool is_aligned(const HeadRows& rows) {
    return reinterpret_cast<std::uintptr_t>(rows.data) % 16 == 0 && rows.head_stride % 8 == 0 &&
           rows.row_stride % 8 == 0;
}

// Whether the distance of two slots is a number of bytes that the kernels can hold.
inline bool is_near(const HeadRows& pool) {
    return pool.row_stride >= 0 && pool.row_stride <= std::numeric_limits<std::int32_t>::max();
}

inline std::int32_t attend(const AttentionCall& call, void* stream) {
    if (call.n_tiles < 0 || call.n_merges < 0 || call.n_kv_heads < 1 || call.n_slots < 0 ||
        call.group < 1 || !is_near(call.keys) || !is_near(call.values)) {
        return kBadSizes;
    }
    if (call.products < 0 || call.products > static_cast<std::int32_t>(Products::kWgmma)) {
        return kUnsupportedProducts;
    }
    if (call.tile_rows !=
        (takes_wgmma(call.products, call.head_dim) ? kWarpgroupTileRows : kTileRows)) {
        return kWrongTileRows;
    }
    if (call.n_tiles == 0) return kOk;
    if (!is_aligned(call.query) || !is_aligned(call.keys) || !is_aligned(call.values) ||
        !is_aligned(call.out)) {
        return kMisaligned;
    }
    return pick_dtype(call, stream);
}

}  // namespace icm_fast::cuda
