// Copies of many rows at once on the processor: the names of cuda/box_copies.cuh.
//
// A box arrives with the last arrival at its barrier, not before; until then its target is NaN. One
// outside its pool, at an address that is no multiple of the swizzled pattern, that no barrier
// expects, and one that is expected and does not come fail the launch.
#pragma once

#include <cstdint>

#include "cuda/tree_attention.hpp"
#include "tests/warp_roles_emulation.hpp"

#define ICM_FAST_GRID_CONSTANT

namespace icm_fast::cuda {

struct BoxMap {
    HeadRows pool;
    std::int32_t n_heads, n_slots, head_dim, n_rows;
};

// Whether pools can be mapped; they can unless a test says otherwise.
void set_box_maps(bool there);

bool map_boxes(BoxMap& map, const HeadRows& pool, std::int32_t n_heads, std::int32_t n_slots,
               std::int32_t head_dim, Dtype dtype, std::int32_t n_rows);
void expect_bytes(StageBarrier& barrier, int n_bytes);
void copy_box(void* target, const BoxMap& map, int column, int slot, int head,
              StageBarrier& barrier);

}  // namespace icm_fast::cuda
