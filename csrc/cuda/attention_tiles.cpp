#include "cuda/attention_tiles.hpp"

#include <algorithm>
#include <functional>

namespace icm_fast::cuda {
namespace {

std::int32_t keys_of(const Tile& tile) { return tile.key_end - tile.key_begin; }

// One tile, or several and their merge.
void add_rows(TilePlan& plan, std::int32_t segment, std::int32_t row, std::int32_t n_keys,
              std::int32_t keys_per_split) {
    if (keys_per_split <= 0 || n_keys <= keys_per_split) {
        plan.tiles.push_back({segment, row, 0, n_keys, -1});
        return;
    }
    const std::int32_t first = plan.n_partials;
    for (std::int32_t begin = 0; begin < n_keys; begin += keys_per_split) {
        const std::int32_t length = std::min(keys_per_split, n_keys - begin);
        plan.tiles.push_back({segment, row, begin, begin + length, plan.n_partials++});
    }
    plan.merges.push_back({segment, row, first, plan.n_partials - first});
}

}  // namespace

TilePlan plan_tiles(std::span<const Segment> segments, std::int32_t group, std::int32_t tile_rows,
                    std::int32_t keys_per_split) {
    TilePlan plan;
    for (std::size_t s = 0; s < segments.size(); ++s) {
        const Segment& segment = segments[s];
        const std::int32_t n_rows = segment.n_tokens * group;
        for (std::int32_t row = 0; row < n_rows; row += tile_rows) {
            const std::int32_t last = std::min(n_rows, row + tile_rows) - 1;
            const std::int32_t n_keys = segment.start + last / group + 1;
            add_rows(plan, static_cast<std::int32_t>(s), row, n_keys, keys_per_split);
        }
    }
    std::ranges::stable_sort(plan.tiles, std::ranges::greater{}, keys_of);
    return plan;
}

}  // namespace icm_fast::cuda
