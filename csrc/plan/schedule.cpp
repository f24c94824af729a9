#include "plan/schedule.hpp"

#include <algorithm>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include "plan/range_allocator.hpp"

namespace icm_fast::plan {
namespace {

using Segments = std::vector<std::int32_t>;

void check(const ScheduleLimits& limits) {
    const auto check_one = [](const char* name, std::int64_t value) {
        if (value >= 1) return;
        throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) +
                                    "; it must be 1 token or more");
    };
    check_one("kv_budget_tokens", limits.kv_budget_tokens);
    check_one("batch_tokens", limits.batch_tokens);
    if (limits.stage_tokens < 0) {
        throw std::invalid_argument("stage_tokens is " + std::to_string(limits.stage_tokens) +
                                    "; it must be 0 or more");
    }
}

// Per segment, the tokens of it and all its descendants.
std::vector<std::int64_t> subtree_tokens(const LooTree& tree) {
    std::vector<std::int64_t> tokens = tree.n_tokens;
    for (std::size_t s = tokens.size(); s-- > 0;) {
        if (tree.parent[s] >= 0) tokens[static_cast<std::size_t>(tree.parent[s])] += tokens[s];
    }
    return tokens;
}

// Per segment, the mean priority of the queries in it and below.
std::vector<double> subtree_priority(const LooTree& tree, std::span<const double> priority) {
    std::vector<double> sums(tree.parent.size(), 0.0);
    std::vector<double> counts(tree.parent.size(), 0.0);
    for (std::size_t s = sums.size(); s-- > 0;) {
        if (tree.query[s] >= 0 && tree.tail[s] < 0) {
            sums[s] += priority[static_cast<std::size_t>(tree.query[s])];
            counts[s] += 1.0;
        }
        if (tree.parent[s] >= 0) {
            sums[static_cast<std::size_t>(tree.parent[s])] += sums[s];
            counts[static_cast<std::size_t>(tree.parent[s])] += counts[s];
        }
    }
    for (std::size_t s = 0; s < sums.size(); ++s) sums[s] /= std::max(counts[s], 1.0);
    return sums;
}

// Puts segments into batches, one group of sub-trees at a time.
class Batcher {
  public:
    Batcher(const LooTree& tree, const ScheduleLimits& limits)
        : tree_(tree),
          limits_(limits),
          subtree_tokens_(subtree_tokens(tree)),
          children_(tree.parent.size()) {
        for (std::size_t s = 0; s < tree.parent.size(); ++s) {
            const std::int32_t parent = tree.parent[s];
            auto& siblings = parent < 0 ? roots_ : children_[static_cast<std::size_t>(parent)];
            siblings.push_back(static_cast<std::int32_t>(s));
        }
        if (limits.priority.empty()) return;
        const std::vector<double> priority = subtree_priority(tree, limits.priority);
        const auto sort = [&](Segments& siblings) {
            std::ranges::stable_sort(siblings, {}, [&](std::int32_t s) {
                return priority[static_cast<std::size_t>(s)];
            });
        };
        sort(roots_);
        std::ranges::for_each(children_, sort);
    }

    Schedule run() && {
        std::vector<Segments> pending;
        push_groups(roots_, pending);
        while (!pending.empty()) {
            Segments group = std::move(pending.back());
            pending.pop_back();
            if (fits(group)) {
                run_levels(std::move(group));
            } else {
                run_batch(group);
                push_groups(children_[static_cast<std::size_t>(group.front())], pending);
            }
        }
        return std::move(schedule_);
    }

  private:
    // Siblings share all that is live above them, which is what their contexts start after: the
    // sub-trees served before them have been freed.
    [[nodiscard]] std::int64_t room_beside(std::int32_t segment) const {
        const std::int64_t room =
            limits_.kv_budget_tokens - tree_.start[static_cast<std::size_t>(segment)];
        return limits_.stage_tokens > 0 ? std::min(room, limits_.stage_tokens) : room;
    }

    [[nodiscard]] bool fits(std::span<const std::int32_t> siblings) const {
        std::int64_t tokens = 0;
        for (const std::int32_t s : siblings)
            tokens += subtree_tokens_[static_cast<std::size_t>(s)];
        return tokens <= room_beside(siblings.front());
    }

    // Cuts siblings into the fewest consecutive groups whose sub-trees fit the budget together; a
    // sub-tree that does not fit is a separate group. The first group ends on top of the stack.
    void push_groups(const Segments& siblings, std::vector<Segments>& pending) const {
        std::vector<Segments> groups;
        std::int64_t room = 0;
        for (const std::int32_t s : siblings) {
            const std::int64_t tokens = subtree_tokens_[static_cast<std::size_t>(s)];
            if (groups.empty() || tokens > room) {
                groups.emplace_back();
                room = room_beside(s);
            }
            groups.back().push_back(s);
            room -= tokens;
        }
        std::move(groups.rbegin(), groups.rend(), std::back_inserter(pending));
    }

    void run_levels(Segments level) {
        while (!level.empty()) {
            run_split(level);
            Segments below;
            for (const std::int32_t s : level) {
                const auto& children = children_[static_cast<std::size_t>(s)];
                below.insert(below.end(), children.begin(), children.end());
            }
            level = std::move(below);
        }
    }

    void run_split(std::span<const std::int32_t> level) {
        std::size_t first = 0;
        std::int64_t tokens = 0;
        for (std::size_t k = 0; k < level.size(); ++k) {
            const std::int64_t more = tree_.n_tokens[static_cast<std::size_t>(level[k])];
            if (k > first && tokens + more > limits_.batch_tokens) {
                run_batch(level.subspan(first, k - first));
                first = k;
                tokens = 0;
            }
            tokens += more;
        }
        run_batch(level.subspan(first));
    }

    void run_batch(std::span<const std::int32_t> segments) {
        auto& all = schedule_.batch_segments;
        all.insert(all.end(), segments.begin(), segments.end());
        schedule_.batch_offsets.push_back(static_cast<std::int64_t>(all.size()));
    }

    const LooTree& tree_;
    const ScheduleLimits& limits_;
    std::vector<std::int64_t> subtree_tokens_;
    std::vector<Segments> children_;
    Segments roots_;
    Schedule schedule_;
};

// Per batch, the segments that no later batch attends to.
std::vector<Segments> released_after(const LooTree& tree, const Schedule& schedule) {
    const auto n_batches = static_cast<std::size_t>(schedule.n_batches());
    std::vector<std::size_t> last_use(tree.parent.size());
    for (std::size_t batch = 0; batch < n_batches; ++batch) {
        for (auto k = schedule.batch_offsets[batch]; k < schedule.batch_offsets[batch + 1]; ++k) {
            const std::int32_t segment = schedule.batch_segments[static_cast<std::size_t>(k)];
            last_use[static_cast<std::size_t>(segment)] = batch;
        }
    }
    std::vector<Segments> released(n_batches);
    for (std::size_t s = last_use.size(); s-- > 0;) {
        released[last_use[s]].push_back(static_cast<std::int32_t>(s));
        if (tree.parent[s] < 0) continue;
        std::size_t& above = last_use[static_cast<std::size_t>(tree.parent[s])];
        above = std::max(above, last_use[s]);
    }
    return released;
}

void place_segments(const LooTree& tree, Schedule& schedule) {
    const std::vector<Segments> released = released_after(tree, schedule);
    RangeAllocator pool;
    std::int64_t live_tokens = 0;
    schedule.kv_offset.assign(tree.parent.size(), 0);
    for (std::size_t batch = 0; batch < released.size(); ++batch) {
        for (auto k = schedule.batch_offsets[batch]; k < schedule.batch_offsets[batch + 1]; ++k) {
            const auto s =
                static_cast<std::size_t>(schedule.batch_segments[static_cast<std::size_t>(k)]);
            schedule.kv_offset[s] = pool.allocate(aligned_slots(tree.n_tokens[s]));
            live_tokens += tree.n_tokens[s];
        }
        schedule.peak_kv_tokens = std::max(schedule.peak_kv_tokens, live_tokens);
        for (const std::int32_t s : released[batch]) {
            pool.release(schedule.kv_offset[static_cast<std::size_t>(s)]);
            live_tokens -= tree.n_tokens[static_cast<std::size_t>(s)];
        }
    }
    schedule.pool_tokens = pool.capacity();
}

}  // namespace

Schedule make_schedule(const LooTree& tree, const ScheduleLimits& limits) {
    check(limits);
    if (!limits.priority.empty() && limits.priority.size() != tree.query_segment.size()) {
        throw std::invalid_argument("priority has " + std::to_string(limits.priority.size()) +
                                    " entries, but there are " +
                                    std::to_string(tree.query_segment.size()) + " examples");
    }
    Schedule schedule = Batcher(tree, limits).run();
    place_segments(tree, schedule);
    return schedule;
}

}  // namespace icm_fast::plan
