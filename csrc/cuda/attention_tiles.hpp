// The tiles of a packed batch: which block of threads attends for which query rows over which keys.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/tree_attention.hpp"

namespace icm_fast::cuda {

struct TilePlan {
    std::vector<Tile> tiles;  // the ones with most keys first: they should not be the last to end
    std::vector<Merge> merges;
    std::int32_t n_partials = 0;
};

// Splits depend on the segment alone, never on the batch, so that its results do not either.
TilePlan plan_tiles(std::span<const Segment> segments, std::int32_t group, std::int32_t tile_rows,
                    std::int32_t keys_per_split);

}  // namespace icm_fast::cuda
