// When each segment runs, and where its keys and values lie meanwhile.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/loo_tree.hpp"

namespace icm_fast::plan {

// Limits in tokens, each >= 1; a plan that exceeds them continues, and its peak shows it.
struct ScheduleLimits {
    std::int64_t kv_budget_tokens;  // live keys and values at one time
    std::int64_t batch_tokens;      // forwarded in one batch; a longer segment runs alone
    // Sub-trees beyond this size are served one after the other, so that the first scores come
    // early; 0: as the budget allows.
    std::int64_t stage_tokens = 0;
    // Per example, what the sub-trees are ordered by: the one with the smaller mean over its
    // queries comes first. Empty: as they were created.
    std::span<const double> priority = {};
};

// Batches of segments, each one forward pass; a parent runs in an earlier batch than its children.
struct Schedule {
    std::vector<std::int64_t> batch_offsets = {0};  // n_batches + 1 offsets into batch_segments
    std::vector<std::int32_t> batch_segments;       // every segment once
    std::vector<std::int64_t> kv_offset;            // per segment: its first slot in the pool
    std::int64_t peak_kv_tokens = 0;                // most tokens live in any batch
    std::int64_t pool_tokens = 0;                   // slots that the pool must have

    [[nodiscard]] std::int64_t n_batches() const {
        return static_cast<std::int64_t>(batch_offsets.size()) - 1;
    }
};

// Slots that a segment of `n_tokens` takes. Every segment begins at an even slot: a word holds two
// neighbouring bfloat16 keys, and where pairs fall must depend on the segment alone, or else its
// results would depend, in the last bit, on what else the pool holds.
[[nodiscard]] constexpr std::int64_t aligned_slots(std::int64_t n_tokens) {
    return (n_tokens + 1) / 2 * 2;
}

// Depth-first at the top, level by level once whole sub-trees fit the budget. A segment holds its
// slots from its own batch to the batch of its last descendant, since every descendant attends
// to it. Deterministic. Throws std::invalid_argument where a limit is below 1.
Schedule make_schedule(const LooTree& tree, const ScheduleLimits& limits);

}  // namespace icm_fast::plan
