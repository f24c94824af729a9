// What the programs of a device's attention kernel read: the tables of one launch over a batch.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace icm_fast::plan {

// Pool slots from the first up to, without, the second.
using SlotRange = std::pair<std::int64_t, std::int64_t>;

// One segment of a packed batch.
struct PackedSegment {
    std::int64_t begin;             // its first query row
    std::int64_t end;               // one past its last row
    std::int64_t own;               // first pool slot of its own keys, as many as it has rows
    std::int64_t start;             // position of its first token in its context
    std::vector<SlotRange> ranges;  // of its ancestors, in context order; `start` slots in all
};

struct LaunchSettings {
    std::int32_t group;     // query heads per key-value head
    std::int32_t kv_heads;  // key-value heads
    std::int32_t block_m;   // rows of a tile; a row is one token under one head of the group
    std::int32_t block_n;   // keys of a block
    // The launch serves segments of at least so many rows, and of fewer than the second number.
    std::int64_t lengths_begin;
    std::int64_t lengths_end;
    std::int64_t window;  // a query sees so many keys, itself included; 0: all before it
    std::int32_t n_sms;   // multiprocessors that splits are to fill; 0 splits nothing
};

// The structs below are rows of int32 tables, as kernels/tree_attention/triton_kernels.py reads
// them.

// Keys side by side in the pool, at most `block_n` of them.
struct KeyBlock {
    std::int32_t slot;
    std::int32_t n_keys;
    std::int32_t position;  // of the first key in the context
    std::int32_t unused;
};

// The work of one program under each key-value head: a tile of query rows, the blocks it reads.
struct LaunchItem {
    std::int32_t begin;      // row of the segment in the batch, in tokens
    std::int32_t first_row;  // of the tile in the segment, heads counted
    std::int32_t n_rows;     // of the segment, heads counted
    std::int32_t start;      // position of the segment
    std::int32_t first_block;
    std::int32_t mask_block;  // the first block that needs a mask
    std::int32_t end_block;
    std::int32_t partial;  // number of the partial result, -1 where the tile is not split
};

// The parts of one split tile.
struct LaunchMerge {
    std::int32_t begin;  // these four as in the tile's items
    std::int32_t first_row;
    std::int32_t n_rows;
    std::int32_t start;
    std::int32_t first_partial;
    std::int32_t n_partials;
};

struct LaunchPlan {
    std::vector<LaunchItem> items;  // those with most blocks first
    std::vector<KeyBlock> blocks;   // of each segment together
    std::vector<LaunchMerge> merges;
    std::int64_t n_partials = 0;  // per key-value head
    std::int64_t slot_end = 0;    // one past the last slot that is read
};

// Cuts the keys of every segment that the launch serves into blocks, its rows into tiles, and on
// request the blocks of long tiles into parts. A pure function of its arguments.
// Throws std::invalid_argument if the segments' rows do not cover `n_tokens` rows, a range is
// backwards or below slot 0, the ranges before a segment do not add up to its position, a setting
// is out of bounds, or a number does not fit the tables.
[[nodiscard]] LaunchPlan make_launch_plan(std::span<const PackedSegment> segments,
                                          std::int64_t n_tokens, const LaunchSettings& settings);

}  // namespace icm_fast::plan
