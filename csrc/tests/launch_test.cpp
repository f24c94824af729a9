// Launch plans: known tables, and that every key a row sees is read once.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "plan/launch_plan.hpp"
#include "tests/check.hpp"

namespace icm_fast::tests {
namespace {

using plan::LaunchPlan;
using plan::LaunchSettings;
using plan::PackedSegment;

LaunchSettings plain_settings() {
    return {.group = 1,
            .kv_heads = 1,
            .block_m = 4,
            .block_n = 4,
            .lengths_begin = 1,
            .lengths_end = std::int64_t{1} << 62,
            .window = 0,
            .n_sms = 0};
}

// Ancestors of odd lengths, with an empty one and two that touch; then one token; then none.
std::vector<PackedSegment> batch() {
    return {{0, 11, 60, 20, {{30, 37}, {5, 5}, {37, 49}, {3, 4}}},
            {11, 12, 90, 3, {{0, 3}}},
            {12, 19, 91, 0, {}}};
}

// Slot to position of the keys in some blocks; none may be there twice.
std::map<std::int64_t, std::int64_t> keys_of(const LaunchPlan& plan, std::int32_t begin,
                                             std::int32_t end) {
    std::map<std::int64_t, std::int64_t> keys;
    for (std::int32_t b = begin; b < end; ++b) {
        const plan::KeyBlock& block = plan.blocks.at(static_cast<std::size_t>(b));
        for (std::int32_t k = 0; k < block.n_keys; ++k) {
            CHECK(keys.emplace(block.slot + k, block.position + k).second);
        }
    }
    return keys;
}

// The slots of a segment's context and of itself, in order.
std::vector<std::int64_t> slots_of(const PackedSegment& segment) {
    std::vector<std::int64_t> slots;
    const auto add = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t slot = begin; slot < end; ++slot) slots.push_back(slot);
    };
    for (const auto& [begin, end] : segment.ranges) add(begin, end);
    add(segment.own, segment.own + segment.end - segment.begin);
    return slots;
}

// Every row of every tile finds the keys that it sees in the blocks of the tile's parts, once.
void check_rows(const std::vector<PackedSegment>& segments, const LaunchSettings& settings) {
    const LaunchPlan plan = plan::make_launch_plan(segments, segments.back().end, settings);
    std::map<std::pair<std::int64_t, std::int64_t>, std::map<std::int64_t, std::int64_t>> read;
    for (const plan::LaunchItem& item : plan.items) {
        CHECK(item.first_block <= item.mask_block && item.mask_block <= item.end_block);
        auto& keys = read[{item.begin, item.first_row}];
        for (const auto& key : keys_of(plan, item.first_block, item.end_block)) {
            CHECK(keys.insert(key).second);
        }
    }
    for (const PackedSegment& segment : segments) {
        const std::vector<std::int64_t> slots = slots_of(segment);
        for (std::int64_t row = 0; row < (segment.end - segment.begin) * settings.group; ++row) {
            const auto& keys = read.at({segment.begin, row / settings.block_m * settings.block_m});
            const std::int64_t last = segment.start + row / settings.group;
            const std::int64_t first =
                settings.window > 0 ? std::max<std::int64_t>(0, last - settings.window + 1) : 0;
            for (std::int64_t at = first; at <= last; ++at) {
                CHECK_EQUAL(keys.at(slots[static_cast<std::size_t>(at)]), at);
            }
        }
    }
}

bool is_refused(const std::vector<PackedSegment>& segments, std::int64_t n_tokens,
                const LaunchSettings& settings) {
    try {
        static_cast<void>(plan::make_launch_plan(segments, n_tokens, settings));
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

}  // namespace

NATIVE_TEST(launch, whole_blocks_come_before_those_with_a_mask) {
    const auto plan = plan::make_launch_plan(
        std::vector<PackedSegment>{{0, 2, 12, 11, {{0, 3}, {3, 8}, {9, 12}}}}, 2, plain_settings());
    std::string blocks;
    for (const plan::KeyBlock& b : plan.blocks) {
        blocks += std::to_string(b.slot) + "+" + std::to_string(b.n_keys) + "@" +
                  std::to_string(b.position) + " ";
    }
    CHECK_EQUAL(blocks, "0+4@0 4+4@4 9+3@8 12+2@11 ");
    CHECK_EQUAL(plan.items.size(), 1U);
    CHECK_EQUAL(plan.items[0].mask_block, 2);
    CHECK_EQUAL(plan.items[0].end_block, 4);
    CHECK_EQUAL(plan.items[0].partial, -1);
    CHECK_EQUAL(plan.slot_end, 14);
}

NATIVE_TEST(launch, rows_find_their_keys) {
    for (const std::int32_t group : {1, 3}) {
        for (const std::int64_t window : {0, 1, 5, 1000}) {
            for (const std::int32_t n_sms : {0, 2, 1000}) {
                for (const std::int32_t block : {1, 3, 16}) {
                    const Input input("group " + std::to_string(group) + ", window " +
                                      std::to_string(window) + ", n_sms " + std::to_string(n_sms) +
                                      ", block " + std::to_string(block));
                    LaunchSettings settings = plain_settings();
                    settings.group = group;
                    settings.window = window;
                    settings.n_sms = n_sms;
                    settings.block_m = settings.block_n = block;
                    check_rows(batch(), settings);
                }
            }
        }
    }
}

NATIVE_TEST(launch, a_split_tile_has_one_merge_of_all_its_parts) {
    LaunchSettings settings = plain_settings();
    settings.n_sms = 4;
    const auto plan = plan::make_launch_plan(
        std::vector<PackedSegment>{{0, 4, 500, 400, {{0, 400}}}, {4, 5, 600, 0, {}}}, 5, settings);
    CHECK_EQUAL(plan.merges.size(), 1U);
    CHECK_EQUAL(plan.merges[0].first_partial, 0);
    CHECK_EQUAL(plan.merges[0].n_partials, plan.n_partials);
    CHECK_EQUAL(plan.n_partials, 8);
    CHECK_EQUAL(plan.items.size(), 9U);
    CHECK(std::ranges::is_sorted(plan.items, std::ranges::greater{}, [](const auto& item) {
        return item.end_block - item.first_block;
    }));
}

NATIVE_TEST(launch, a_launch_serves_segments_of_its_lengths) {
    LaunchSettings settings = plain_settings();
    settings.lengths_begin = 1;
    settings.lengths_end = 7;
    const auto plan = plan::make_launch_plan(batch(), 19, settings);
    CHECK_EQUAL(plan.items.size(), 1U);
    CHECK_EQUAL(plan.items[0].begin, 11);
    settings.lengths_end = 1;
    CHECK_EQUAL(plan::make_launch_plan(batch(), 19, settings).slot_end, 0);
    CHECK_EQUAL(plan::make_launch_plan({}, 0, settings).blocks.size(), 0U);
}

NATIVE_TEST(launch, wrong_work_is_refused) {
    constexpr std::int64_t kFar = std::int64_t{1} << 62;
    const LaunchSettings settings = plain_settings();
    CHECK(is_refused(batch(), 20, settings));
    CHECK(is_refused({{1, 2, 0, 0, {}}}, 2, settings));
    CHECK(is_refused({{0, -1, 0, 0, {}}}, -1, settings));
    CHECK(is_refused({{0, 7, 9, 0, {{5, 3}}}}, 7, settings));
    CHECK(is_refused({{0, 7, -1, 0, {}}}, 7, settings));
    CHECK(is_refused({{0, 7, 9, 2, {{0, 3}}}}, 7, settings));
    CHECK(is_refused({{0, 7, std::numeric_limits<std::int64_t>::max(), 0, {}}}, 7, settings));
    CHECK(is_refused({{0, kFar, 0, 0, {}}}, kFar, settings));
    CHECK(is_refused({{0, 1, 0, kFar, {{0, kFar}}}}, 1, settings));
    LaunchSettings bad = settings;
    bad.block_n = 0;
    CHECK(is_refused(batch(), 19, bad));
}

}  // namespace icm_fast::tests
