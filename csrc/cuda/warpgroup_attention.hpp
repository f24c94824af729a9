// The kernels with warpgroup products: a part of their own, since only compute capability 9.0 has
// these instructions.
#pragma once

#include <cstdint>

#include "cuda/tree_attention.hpp"

namespace icm_fast::cuda {

// Wider heads need more registers than there are.
constexpr bool takes_wgmma(std::int32_t products, std::int32_t head_dim) {
    return products == static_cast<std::int32_t>(Products::kWgmma) &&
           (head_dim == 64 || head_dim == 128);
}

// Whether the driver can describe the pools of a call to the unit that copies boxes.
bool copies_boxes(const AttentionCall& call);

// Enqueues the tiles of a call, without the merge. Another device has no code for it: a
// cudaError_t.
std::int32_t attend_by_warpgroups(const AttentionCall& call, void* stream);

}  // namespace icm_fast::cuda
