// Keys and values that stay when a plan is done, so that the next one forwards only what is new.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "plan/loo_tree.hpp"
#include "plan/range_allocator.hpp"
#include "plan/schedule.hpp"

namespace icm_fast::plan {

// A trie of context segments, found by what they hold: the (example, label) pairs of a segment
// under those of its ancestors. Queries and label tails are not kept. Not thread-safe.
class PrefixCache {
  public:
    // A cache over the first `n_slots` slots of a pool.
    explicit PrefixCache(std::int64_t n_slots);

    // Batches of the segments that are not held yet; `kv_offset` has the slots of all. Segments
    // that this plan does not use are evicted as room is needed, the least recently used first.
    // Empty, with nothing held any more, if the plan alone does not fit. `labels`: one per example.
    // Throws std::invalid_argument where `finish` is due.
    [[nodiscard]] std::optional<Schedule> place(const LooTree& tree,
                                                std::span<const std::int32_t> labels,
                                                const ScheduleLimits& limits);

    // Ends a plan: keeps the context segments that were forwarded (one entry per segment; those
    // held before do not matter) and forgets the others.
    void finish(std::span<const bool> forwarded);

    [[nodiscard]] std::int64_t n_slots() const { return n_slots_; }
    // Tokens of the segments held.
    [[nodiscard]] std::int64_t held_tokens() const { return held_tokens_; }
    [[nodiscard]] std::int64_t n_held() const { return static_cast<std::int64_t>(found_.size()); }

  private:
    using Content = std::vector<std::int32_t>;
    using Key = std::pair<std::int32_t, Content>;  // node above, or -1

    struct Node {
        Key key;
        std::int64_t offset = 0;
        std::int64_t n_tokens = 0;
        std::int64_t last_use = 0;
        std::int32_t depth = 0;
    };

    // The node of the segment above one of the plan under way; -1 if there is none.
    [[nodiscard]] std::int32_t node_above(const LooTree& tree, std::size_t segment) const;
    [[nodiscard]] std::optional<std::int64_t> make_room(std::int64_t n_tokens);
    [[nodiscard]] bool evict_one();
    void forget(std::int32_t node);
    void clear();

    std::int64_t n_slots_;
    RangeAllocator pool_;
    std::map<std::int32_t, Node> nodes_;
    std::map<Key, std::int32_t> found_;
    std::int32_t next_node_ = 0;
    std::int64_t clock_ = 0;
    std::int64_t held_tokens_ = 0;
    // Of the plan under way, per segment: its node, or -1; whether it is new.
    std::vector<std::int32_t> node_of_;
    std::vector<bool> is_new_;
    std::vector<std::int64_t> transient_;  // offsets to release when it is done
    bool is_open_ = false;
};

}  // namespace icm_fast::plan
