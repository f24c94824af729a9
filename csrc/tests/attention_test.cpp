// Tree attention against a softmax in double precision.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/attention_problem.hpp"
#include "tests/check.hpp"
#include "tests/inputs.hpp"

namespace icm_fast::tests {
namespace {

using Sizes = std::vector<SegmentSizes>;

constexpr std::array<float, 18> kSinks = {0.3F, -1.0F, 2.0F, 0.0F,  5.0F, -3.0F,  0.1F, 0.2F, 1.0F,
                                          1.5F, -0.5F, 0.7F, 30.0F, 0.0F, -40.0F, 1.0F, 2.0F, 3.0F};

// 70 ranges of one to three slots: more pieces than a block of keys takes.
std::vector<std::int64_t> deep() {
    std::vector<std::int64_t> counts;
    for (std::int64_t k = 0; k < 70; ++k) counts.push_back(1 + k * k % 3);
    return counts;
}

Sizes mixed_batch() {
    return {{{13}, 11}, {{5, 3}, 1}, {{}, 7}, {deep(), 5}, {{1}, 1}, {{1, 17}, 3}, {{}, 1}};
}

// Counts around the block of keys, an own range longer than a block, and odd beginnings.
Sizes long_ranges() {
    return {{{127, 1, 128}, 3}, {{129, 130, 1}, 1}, {{255, 2, 257}, 5}, {{3}, 140}, {{}, 131}};
}

cpu::AttentionOptions scaled(std::int64_t head_dim) {
    return {.scaling = 3.0F / std::sqrt(static_cast<float>(head_dim))};
}

void check_all(const Sizes& sizes, std::int64_t group, std::int64_t head_dim,
               const cpu::AttentionOptions& options) {
    for_each_table(
        [&](const cpu::Ops& ops) { AttentionProblem(ops, sizes, group, head_dim).check(options); });
}

}  // namespace

NATIVE_TEST(attention, every_head_dim) {
    for (const std::int64_t head_dim : {2, 6, 8, 12, 64, 80, 128, 256}) {
        check_all(mixed_batch(), 3, head_dim, scaled(head_dim));
    }
}

NATIVE_TEST(attention, every_group) {
    for (std::int64_t group = 1; group <= 9; ++group) {
        cpu::AttentionOptions options = scaled(8);
        check_all(mixed_batch(), group, 8, options);
        options.window = 5;
        options.sinks = kSinks.data();
        check_all(mixed_batch(), group, 8, options);
    }
}

NATIVE_TEST(attention, windows_caps_and_sinks) {
    for (const std::int64_t window : {0, 1, 2, 5, 13, 40, 1000}) {
        for (const float softcap : {0.0F, 1.5F, 50.0F}) {
            for (const float* sinks : {static_cast<const float*>(nullptr), kSinks.data()}) {
                cpu::AttentionOptions options = scaled(10);
                options.window = window;
                options.softcap = softcap;
                options.sinks = sinks;
                check_all(mixed_batch(), 2, 10, options);
            }
        }
    }
}

NATIVE_TEST(attention, ranges_longer_than_a_block_of_keys) {
    for (const std::int64_t window : {0, 3, 100, 128, 300}) {
        cpu::AttentionOptions options = scaled(8);
        options.window = window;
        check_all(long_ranges(), 3, 8, options);
    }
}

// Scores of hundreds: the largest one has to be taken out before the exponential.
NATIVE_TEST(attention, large_scores) {
    cpu::AttentionOptions options = scaled(8);
    options.scaling = 60.0F;
    for_each_table([&](const cpu::Ops& ops) {
        AttentionProblem problem(ops, mixed_batch(), 2, 8);
        const Floats got = problem.run(options);
        for (const float value : got) CHECK(std::abs(value) <= 1.0F);
        options.softcap = 2.0F;
        problem.check(options);
        options.softcap = 0.0F;
    });
}

// The last layer attends for last tokens alone.
NATIVE_TEST(attention, last_tokens_alone) {
    for_each_table([](const cpu::Ops& ops) {
        for (const std::int64_t group : {1, 3, 9}) {
            AttentionProblem problem(ops, mixed_batch(), group, 16);
            const Floats all = problem.run(scaled(16));
            const Floats last = problem.run(scaled(16), true);
            const std::int64_t row = problem.n_heads() * 16;
            for (const cpu::Segment& segment : problem.layout().segments) {
                for (std::int64_t at = segment.begin * row; at < segment.end * row; ++at) {
                    if (at < (segment.end - 1) * row) {
                        CHECK(std::isnan(last[to_size(at)]));
                    } else {
                        CHECK_NEAR(last[to_size(at)], all[to_size(at)],
                                   is_float32(ops) ? 2e-6F : 8e-3F);
                    }
                }
            }
        }
    });
}

// Bit for bit the same whatever lies in slots that no range holds, or that no window reaches.
NATIVE_TEST(attention, other_slots_do_not_matter) {
    for_each_table([](const cpu::Ops& ops) {
        cpu::AttentionOptions options = scaled(8);
        AttentionProblem zeros(ops, mixed_batch(), 3, 8, 0.0F);
        AttentionProblem garbage(ops, mixed_batch(), 3, 8, -3e37F);
        CHECK(zeros.run(options) == garbage.run(options));
        options.window = 4;
        const Floats before = zeros.run(options);
        CHECK(before == garbage.run(options));
        for (const cpu::Segment& segment : zeros.layout().segments) {
            for (const cpu::KeyRange& range : segment.ranges) {
                const std::int64_t hidden = segment.start - options.window + 1 - range.position;
                for (std::int64_t k = 0; k < std::min(range.count, hidden); ++k) {
                    zeros.write(range.slot + k, 50.0F, 50.0F);
                }
            }
        }
        CHECK(zeros.run(options) == before);
    });
}

// Two keys, the second with the value 1: its weight is exp(difference) / (1 + exp(difference)).
NATIVE_TEST(attention, weights_are_accurate_over_their_range) {
    for_each_table([](const cpu::Ops& ops) {
        const std::vector<cpu::KeyRange> ranges = {{0, 2, 0}};
        cpu::KvPool pool(ops, {1, 1, 2, 2});
        Floats scratch(to_size(cpu::attend_scratch_floats(2)));
        const Floats zero = {0.0F, 0.0F};
        const Floats one = {1.0F, 1.0F};
        const Words query = stored(ops, one);
        pool.write(0, 0, 0, zero.data(), zero.data());
        for (int step = -256; step <= 256; ++step) {
            const float difference = 0.3125F * static_cast<float>(step);
            const Input input("difference " + std::to_string(difference));
            const Floats key = {1.0F, 0.0F};
            pool.write(0, 0, 1, key.data(), one.data());
            Words out(query.size(), kNanWord);
            ops.attend({.query = query.data(),
                        .query_stride = static_cast<std::int64_t>(query.size()),
                        .group = 1,
                        .head_dim = 2,
                        .row_begin = 0,
                        .row_end = 1,
                        .start = 1,
                        .keys = pool.keys(0, 0),
                        .values = pool.values(0, 0),
                        .ranges = ranges.data(),
                        .n_ranges = 1,
                        .scaling = difference,
                        .softcap = 0.0F,
                        .window = 0,
                        .sinks = nullptr,
                        .out = out.data(),
                        .out_stride = static_cast<std::int64_t>(query.size()),
                        .scratch = scratch.data()});
            const double wanted = 1.0 / (1.0 + std::exp(-double{difference}));
            // The exponent is rounded once more, in powers of two.
            const double most = is_float32(ops) ? 6e-7 + 1e-7 * std::abs(difference) : 8e-3;
            for (const float value : loaded(ops, out)) {
                CHECK_NEAR(static_cast<double>(value), wanted, most * wanted);
            }
        }
    });
}

}  // namespace icm_fast::tests
