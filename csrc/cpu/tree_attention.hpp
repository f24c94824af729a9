// Attention of packed segments over shared ranges of one key-value pool.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cpu/kv_pool.hpp"
#include "cpu/ops.hpp"
#include "cpu/thread_pool.hpp"

namespace icm_fast::cpu {

// Rows [begin, end) of the packed batch; its tokens see all `ranges` up to their own position. The
// last range is the segment's own.
struct Segment {
    std::int64_t begin = 0;
    std::int64_t end = 0;
    std::int64_t start = 0;  // position of the first row
    std::vector<KeyRange> ranges;
};

struct AttentionShape {
    std::int64_t n_heads;
    std::int64_t n_kv_heads;
    std::int64_t head_dim;
};

struct AttentionOptions {
    float scaling = 1.0F;
    float softcap = 0.0F;          // 0: none
    std::int64_t window = 0;       // 0: none
    const float* sinks = nullptr;  // [n_heads], or null
};

// One call of Ops::attend.
struct AttentionTile {
    std::int32_t segment;
    std::int32_t head;  // key-value head
    std::int32_t row_begin;
    std::int32_t row_end;
};

// The tiles of a batch, the same for all its layers. With `last_only`, each segment attends for its
// last token alone. Throws std::invalid_argument for a segment of 2^31 rows or more.
std::vector<AttentionTile> make_tiles(const Ops& ops, std::span<const Segment> segments,
                                      const AttentionShape& shape, bool last_only);

// Attends for one tile. `query` and `out` are [tokens][n_heads][head_dim]; `scratch` holds
// attend_scratch_floats(head_dim).
void attend_tile(const Ops& ops, const AttentionTile& tile, const Segment& segment,
                 const AttentionShape& shape, const AttentionOptions& options, const Word* query,
                 KvPool& pool, std::int64_t layer, Word* out, float* scratch);

}  // namespace icm_fast::cpu
