#include "cpu/tree_attention.hpp"

#include <algorithm>
#include <limits>

#include "cpu/sizes.hpp"

namespace icm_fast::cpu {

std::vector<AttentionTile> make_tiles(const Ops& ops, std::span<const Segment> segments,
                                      const AttentionShape& shape, bool last_only) {
    const std::int64_t group = shape.n_heads / shape.n_kv_heads;
    std::vector<AttentionTile> tiles;
    for (std::size_t s = 0; s < segments.size(); ++s) {
        const std::int64_t rows = checked_product("the query rows of a segment",
                                                  {segments[s].end - segments[s].begin, group},
                                                  std::numeric_limits<std::int32_t>::max());
        const std::int64_t first = last_only ? rows - group : 0;
        // Last rows first: their tiles see the most keys.
        const std::int64_t n_tiles = (rows - first + ops.tile_rows - 1) / ops.tile_rows;
        for (std::int64_t head = 0; head < shape.n_kv_heads; ++head) {
            for (std::int64_t k = n_tiles; k-- > 0;) {
                const std::int64_t begin = first + k * ops.tile_rows;
                tiles.push_back({static_cast<std::int32_t>(s), static_cast<std::int32_t>(head),
                                 static_cast<std::int32_t>(begin),
                                 static_cast<std::int32_t>(std::min(rows, begin + ops.tile_rows))});
            }
        }
    }
    return tiles;
}

void attend_tile(const Ops& ops, const AttentionTile& tile, const Segment& segment,
                 const AttentionShape& shape, const AttentionOptions& options, const Word* query,
                 KvPool& pool, std::int64_t layer, Word* out, float* scratch) {
    const std::int64_t group = shape.n_heads / shape.n_kv_heads;
    const std::int64_t head_words = shape.head_dim / ops.values_per_word;
    const std::int64_t stride = shape.n_heads * head_words;
    const std::int64_t offset = segment.begin * stride + tile.head * group * head_words;
    ops.attend({.query = query + offset,
                .query_stride = stride,
                .group = group,
                .head_dim = shape.head_dim,
                .row_begin = tile.row_begin,
                .row_end = tile.row_end,
                .start = segment.start,
                .keys = pool.keys(layer, tile.head),
                .values = pool.values(layer, tile.head),
                .ranges = segment.ranges.data(),
                .n_ranges = static_cast<std::int64_t>(segment.ranges.size()),
                .scaling = options.scaling,
                .softcap = options.softcap,
                .window = options.window,
                .sinks = options.sinks == nullptr ? nullptr : options.sinks + tile.head * group,
                .out = out + offset,
                .out_stride = stride,
                .scratch = scratch});
}

}  // namespace icm_fast::cpu
