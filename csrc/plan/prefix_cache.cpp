#include "plan/prefix_cache.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>

namespace icm_fast::plan {
namespace {

constexpr std::int32_t kNone = -1;

bool is_context(const LooTree& tree, std::size_t segment) { return tree.query[segment] == kNone; }

std::vector<std::int32_t> content_of(const LooTree& tree, std::size_t segment,
                                     std::span<const std::int32_t> labels) {
    std::vector<std::int32_t> content = {tree.has_root_token[segment]};
    for (const std::int32_t demo : tree.demos_of(static_cast<std::int64_t>(segment))) {
        content.push_back(demo);
        content.push_back(labels[static_cast<std::size_t>(demo)]);
    }
    return content;
}

}  // namespace

PrefixCache::PrefixCache(std::int64_t n_slots) : n_slots_(n_slots) {
    if (n_slots < 1) {
        throw std::invalid_argument("n_slots is " + std::to_string(n_slots) +
                                    "; it must be 1 or more");
    }
}

std::optional<Schedule> PrefixCache::place(const LooTree& tree,
                                           std::span<const std::int32_t> labels,
                                           const ScheduleLimits& limits) {
    if (is_open_) throw std::invalid_argument("the plan before was not finished");
    if (labels.size() != tree.query_segment.size()) {
        throw std::invalid_argument("labels must have one entry per example");
    }
    const std::size_t n_segments = tree.parent.size();
    node_of_.assign(n_segments, kNone);
    is_new_.assign(n_segments, true);
    transient_.clear();
    is_open_ = true;
    ++clock_;
    // First all that is held, so that nothing of this plan is evicted for another part of it.
    for (std::size_t s = 0; s < n_segments; ++s) {
        if (!is_context(tree, s)) continue;
        const std::int32_t parent = node_above(tree, s);
        if (tree.parent[s] != kNone && parent == kNone) continue;
        const auto found = found_.find({parent, content_of(tree, s, labels)});
        if (found == found_.end()) continue;
        node_of_[s] = found->second;
        is_new_[s] = false;
        nodes_.at(found->second).last_use = clock_;
    }
    std::vector<std::int64_t> kv_offset(n_segments, 0);
    for (std::size_t s = 0; s < n_segments; ++s) {
        if (!is_new_[s]) {
            kv_offset[s] = nodes_.at(node_of_[s]).offset;
            continue;
        }
        const std::optional<std::int64_t> offset = make_room(tree.n_tokens[s]);
        if (!offset) {
            clear();
            return std::nullopt;
        }
        kv_offset[s] = *offset;
        if (!is_context(tree, s)) {
            transient_.push_back(*offset);
            continue;
        }
        const std::int32_t parent = node_above(tree, s);
        Node node{{parent, content_of(tree, s, labels)}, *offset, tree.n_tokens[s], clock_, 0};
        if (parent != kNone) node.depth = nodes_.at(parent).depth + 1;
        node_of_[s] = next_node_;
        found_.emplace(node.key, next_node_);
        nodes_.emplace(next_node_, std::move(node));
        held_tokens_ += tree.n_tokens[s];
        ++next_node_;
    }
    // Batches of what has to be forwarded; then in the numbers of the whole tree again.
    Schedule schedule;
    try {
        schedule = make_schedule(select(tree, is_new_), limits);
    } catch (...) {
        // What is new has a place, but nothing will be forwarded to it.
        clear();
        throw;
    }
    std::vector<std::int32_t> number;
    for (std::size_t s = 0; s < n_segments; ++s) {
        if (is_new_[s]) number.push_back(static_cast<std::int32_t>(s));
    }
    for (std::int32_t& segment : schedule.batch_segments) {
        segment = number[static_cast<std::size_t>(segment)];
    }
    schedule.kv_offset = std::move(kv_offset);
    schedule.pool_tokens = n_slots_;
    schedule.peak_kv_tokens = pool_.live();
    return schedule;
}

std::int32_t PrefixCache::node_above(const LooTree& tree, std::size_t segment) const {
    const std::int32_t above = tree.parent[segment];
    return above == kNone ? kNone : node_of_[static_cast<std::size_t>(above)];
}

void PrefixCache::finish(std::span<const bool> forwarded) {
    if (!is_open_) throw std::invalid_argument("there is no plan to finish");
    if (forwarded.size() != node_of_.size()) {
        throw std::invalid_argument("forwarded must have one entry per segment");
    }
    for (std::size_t s = node_of_.size(); s-- > 0;) {
        if (is_new_[s] && node_of_[s] != kNone && !forwarded[s]) forget(node_of_[s]);
    }
    for (const std::int64_t offset : transient_) pool_.release(offset);
    transient_.clear();
    is_open_ = false;
}

std::optional<std::int64_t> PrefixCache::make_room(std::int64_t n_tokens) {
    std::optional<std::int64_t> offset;
    while (!(offset = pool_.try_allocate(aligned_slots(n_tokens), n_slots_))) {
        if (!evict_one()) return std::nullopt;
    }
    return offset;
}

// A node is used whenever one below it is, so among the least recently used the deepest is a leaf.
bool PrefixCache::evict_one() {
    const auto worst = std::ranges::min_element(nodes_, {}, [](const auto& entry) {
        return std::tuple(entry.second.last_use, -entry.second.depth, entry.first);
    });
    if (worst == nodes_.end() || worst->second.last_use == clock_) return false;
    forget(worst->first);
    return true;
}

void PrefixCache::forget(std::int32_t node) {
    const Node& gone = nodes_.at(node);
    pool_.release(gone.offset);
    held_tokens_ -= gone.n_tokens;
    found_.erase(gone.key);
    nodes_.erase(node);
}

void PrefixCache::clear() {
    nodes_.clear();
    found_.clear();
    transient_.clear();
    pool_ = RangeAllocator();
    held_tokens_ = 0;
    is_open_ = false;
}

}  // namespace icm_fast::plan
