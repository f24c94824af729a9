// Plans of any input: refused, or complete and consistent.
#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "fuzz/bytes.hpp"
#include "fuzz/random_plan.hpp"
#include "plan/launch_plan.hpp"
#include "plan/loo_tree.hpp"
#include "plan/schedule.hpp"

namespace icm_fast::fuzz {
namespace {

// Every query sees all other demonstrations once.
void check_contexts(const plan::LooTree& tree, const plan::PlanInput& input) {
    for (std::size_t i = 0; i < input.labelled.size(); ++i) {
        const auto example = static_cast<std::int64_t>(i);
        if (!input.queried[i]) {
            expect(is_refused([&] { static_cast<void>(tree.context(example)); }),
                   "an example that is not queried has a context");
            continue;
        }
        std::vector<std::int32_t> wanted;
        for (std::size_t k = 0; k < input.labelled.size(); ++k) {
            if (input.labelled[k] && k != i) wanted.push_back(static_cast<std::int32_t>(k));
        }
        std::vector<std::int32_t> found = tree.context(example);
        std::ranges::sort(found);
        expect(found == wanted, "a context is not all other demonstrations");
    }
}

void check_sums(const plan::LooTree& tree) {
    std::int64_t total = 0;
    for (std::size_t s = 0; s < tree.parent.size(); ++s) {
        expect(tree.n_tokens[s] >= 1, "a segment has no token");
        expect(tree.parent[s] < static_cast<std::int64_t>(s), "a parent comes after its child");
        const auto above = static_cast<std::size_t>(tree.parent[s]);
        const std::int64_t start =
            tree.parent[s] < 0 ? 0 : tree.start[above] + tree.n_tokens[above];
        expect(tree.start[s] == start, "a segment starts elsewhere than its parent ends");
        total += tree.n_tokens[s];
    }
    expect(total == tree.total_tokens, "the segments' tokens do not add up");
    expect(tree.total_tokens <= tree.naive_tokens || tree.parent.empty(),
           "a plan forwards more than whole contexts");
}

// Ranges of slots that hold keys now.
class Slots {
  public:
    void take(std::int64_t begin, std::int64_t n) {
        expect(begin >= 0, "a segment lies before the pool");
        const auto after = live_.lower_bound(begin);
        expect(after == live_.end() || after->first >= begin + n, "two segments share slots");
        expect(after == live_.begin() || std::prev(after)->second <= begin,
               "two segments share slots");
        live_.emplace(begin, begin + n);
    }
    void give(std::int64_t begin) { live_.erase(begin); }

  private:
    std::map<std::int64_t, std::int64_t> live_;
};

void check_schedule(const plan::LooTree& tree, const plan::Schedule& schedule) {
    const std::size_t n = tree.parent.size();
    std::vector<std::int64_t> batch_of(n, -1), last(n, -1);
    for (std::int64_t batch = 0; batch < schedule.n_batches(); ++batch) {
        const auto b = static_cast<std::size_t>(batch);
        for (auto k = schedule.batch_offsets[b]; k < schedule.batch_offsets[b + 1]; ++k) {
            const auto s =
                static_cast<std::size_t>(schedule.batch_segments[static_cast<std::size_t>(k)]);
            expect(batch_of[s] < 0, "a segment runs twice");
            batch_of[s] = batch;
            for (auto at = static_cast<std::int32_t>(s); at >= 0;
                 at = tree.parent[static_cast<std::size_t>(at)]) {
                last[static_cast<std::size_t>(at)] = batch;
            }
            const std::int32_t above = tree.parent[s];
            if (above < 0) continue;
            const std::int64_t before = batch_of[static_cast<std::size_t>(above)];
            expect(before >= 0 && before < batch, "a segment runs before its parent");
        }
    }
    expect(std::ranges::find(batch_of, -1) == batch_of.end(), "a segment does not run");
    Slots slots;
    for (std::int64_t batch = 0; batch < schedule.n_batches(); ++batch) {
        for (std::size_t s = 0; s < n; ++s) {
            if (batch_of[s] != batch) continue;
            slots.take(schedule.kv_offset[s], tree.n_tokens[s]);
            expect(schedule.kv_offset[s] + tree.n_tokens[s] <= schedule.pool_tokens,
                   "a segment ends outside the pool");
        }
        for (std::size_t s = 0; s < n; ++s) {
            if (last[s] == batch) slots.give(schedule.kv_offset[s]);
        }
    }
}

void fuzz_tree(Bytes& bytes) {
    const RandomPlan plan(bytes);
    const plan::PlanInput input = plan.input();
    plan::ScheduleLimits limits = random_limits(bytes);
    std::vector<double> priority;
    for (std::size_t i = 0; i < plan.n_examples(); ++i) priority.push_back(bytes.real(-1.0, 1.0));
    if (bytes.flag()) limits.priority = priority;
    is_refused([&] {
        const plan::LooTree tree = plan::build_loo_tree(input);
        check_contexts(tree, input);
        check_sums(tree);
        const auto rows = std::make_unique<bool[]>(plan.n_examples());
        for (std::size_t i = 0; i < plan.n_examples(); ++i) rows[i] = bytes.flag();
        const plan::LooTree part = plan::prune(tree, {rows.get(), plan.n_examples()});
        for (std::size_t i = 0; i < plan.n_examples(); ++i) {
            if (!rows[i] || !input.queried[i]) continue;
            const auto example = static_cast<std::int64_t>(i);
            expect(part.context(example) == tree.context(example), "pruning changes a context");
        }
        check_schedule(tree, plan::make_schedule(tree, limits));
        check_schedule(part, plan::make_schedule(part, limits));
    });
}

// ---- The tables of a launch ---------------------------------------------------------------------

std::vector<plan::PackedSegment> random_segments(Bytes& bytes) {
    std::vector<plan::PackedSegment> segments;
    const std::int64_t n = bytes.between(0, 5);
    std::int64_t row = 0;
    for (std::int64_t s = 0; s < n; ++s) {
        plan::PackedSegment segment{.begin = row, .end = row + bytes.between(0, 60)};
        row = segment.end;
        segment.own = bytes.number(0, 300);
        const std::int64_t n_ranges = bytes.between(0, 4);
        for (std::int64_t r = 0; r < n_ranges; ++r) {
            const std::int64_t begin = bytes.number(0, 300);
            // Ranges of a whole pool in blocks of one slot would be right, but take gigabytes.
            std::int64_t end = 0;
            const std::int64_t length = bytes.between(bytes.rarely() ? -1 : 0, 80);
            if (__builtin_add_overflow(begin, length, &end)) end = begin;
            segment.ranges.emplace_back(begin, end);
            segment.start += segment.ranges.back().second - segment.ranges.back().first;
        }
        if (bytes.rarely()) segment.start = bytes.number(0, 50);
        if (bytes.rarely()) segment.end = bytes.number(0, 50);
        segments.push_back(std::move(segment));
    }
    return segments;
}

// Blocks, tiles and parts lie inside their tables and add up.
void check_launch(const plan::LaunchPlan& plan, const plan::LaunchSettings& settings) {
    const auto n_blocks = static_cast<std::int64_t>(plan.blocks.size());
    std::int64_t slot_end = 0;
    for (const plan::KeyBlock& block : plan.blocks) {
        expect(block.slot >= 0 && block.n_keys >= 1 && block.n_keys <= settings.block_n &&
                   block.position >= 0,
               "a block of keys is out of bounds");
        slot_end = std::max(slot_end, std::int64_t{block.slot} + block.n_keys);
    }
    expect(slot_end <= plan.slot_end, "a block ends after the last slot");
    std::int64_t partials = 0;
    for (const plan::LaunchItem& item : plan.items) {
        expect(item.first_block >= 0 && item.first_block <= item.mask_block &&
                   item.mask_block <= item.end_block && item.end_block <= n_blocks,
               "an item's blocks are out of bounds");
        expect(item.first_row >= 0 && item.first_row < item.n_rows, "a tile has no rows");
        partials += item.partial >= 0 ? 1 : 0;
        expect(item.partial < plan.n_partials, "a partial result has no place");
    }
    expect(partials == plan.n_partials, "partial results do not add up");
    std::int64_t merged = 0;
    for (const plan::LaunchMerge& merge : plan.merges) {
        expect(merge.n_partials > 1 && merge.first_partial == merged, "merges leave a part out");
        merged += merge.n_partials;
    }
    expect(merged == plan.n_partials, "merges do not add up");
}

void fuzz_launch(Bytes& bytes) {
    const plan::LaunchSettings settings{
        .group = bytes.number32(1, 8),
        .kv_heads = bytes.number32(1, 4),
        .block_m = bytes.number32(1, 64),
        .block_n = bytes.number32(1, 64),
        .lengths_begin = bytes.number(0, 20),
        .lengths_end = bytes.number(1, 1000),
        .window = bytes.number(0, 60),
        .n_sms = bytes.number32(0, 40),
    };
    const std::vector<plan::PackedSegment> segments = random_segments(bytes);
    const std::int64_t n_tokens = segments.empty() ? bytes.number(0, 1) : segments.back().end;
    // As many items as rows of gigabytes would only say that there is no memory.
    if (n_tokens > 1000 || settings.group > 1000) return;
    is_refused(
        [&] { check_launch(plan::make_launch_plan(segments, n_tokens, settings), settings); });
}

}  // namespace
}  // namespace icm_fast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    icm_fast::fuzz::Bytes bytes(data, size);
    if (bytes.flag()) {
        icm_fast::fuzz::fuzz_launch(bytes);
    } else {
        icm_fast::fuzz::fuzz_tree(bytes);
    }
    return 0;
}
