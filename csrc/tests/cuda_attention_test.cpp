// The CUDA kernels' own source on the emulated device, against a softmax in double precision.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/attention_tiles.hpp"
#include "tests/check.hpp"
#include "tests/cuda_emulation.hpp"
#include "tests/cuda_problem.hpp"
#include "tests/inputs.hpp"

namespace icm_fast::tests {
namespace {

using Sizes = std::vector<SegmentSizes>;
using cuda::Dtype;

constexpr std::array<float, 8> kSinks = {0.3F, -1.0F, 2.0F, 0.0F, 5.0F, -3.0F, 30.0F, -40.0F};

// 70 ranges of one to three slots: several in a block of keys, and more than one block.
std::vector<std::int64_t> deep() {
    std::vector<std::int64_t> counts;
    for (std::int64_t k = 0; k < 70; ++k) counts.push_back(1 + k * k % 3);
    return counts;
}

Sizes mixed_batch() {
    return {{{13}, 11}, {{5, 3}, 1}, {{}, 7}, {deep(), 5}, {{1}, 1}, {{1, 17}, 3}, {{}, 1}};
}

// Counts around a block of keys and around a tile of rows.
Sizes long_batch() { return {{{63, 1, 64}, 3}, {{65, 66}, 1}, {{3}, 130}, {{}, 65}}; }

cpu::AttentionOptions scaled(std::int64_t head_dim) {
    return {.scaling = 3.0F / std::sqrt(static_cast<float>(head_dim))};
}

// Runs a kernel of the test's own on one warp.
template <typename Work>
std::int32_t run_warp(const Work& work, std::int32_t n_shared = 4096) {
    return cuda::run_launch(
        {{1, 1}, static_cast<std::int32_t>(cuda::kEmulatedLanes), n_shared, work});
}

}  // namespace

NATIVE_TEST(cuda, every_head_dim_and_dtype) {
    for (const Dtype dtype : {Dtype::kBfloat16, Dtype::kFloat16}) {
        for (const std::int64_t head_dim : {64, 128, 256}) {
            CudaProblem(mixed_batch(), {head_dim, 3, dtype}).check(scaled(head_dim));
        }
    }
}

NATIVE_TEST(cuda, every_group) {
    for (const std::int64_t group : {1, 2, 3, 4}) {
        CudaProblem problem(mixed_batch(), {64, group});
        cpu::AttentionOptions options = scaled(64);
        problem.check(options);
        options.sinks = kSinks.data();
        problem.check(options);
        options.window = 5;
        problem.check(options);
    }
}

NATIVE_TEST(cuda, windows_caps_and_sinks) {
    CudaProblem problem(mixed_batch(), {64, 3});
    for (const std::int64_t window : {0, 1, 2, 40, 1000}) {
        for (const float softcap : {0.0F, 1.5F}) {
            cpu::AttentionOptions options = scaled(64);
            options.window = window;
            options.softcap = softcap;
            // Sinks with every second pair; alone they have a test of their own.
            options.sinks = (window == 2) == (softcap > 0.0F) ? kSinks.data() : nullptr;
            problem.check(options);
        }
    }
}

NATIVE_TEST(cuda, soft_caps_of_wide_heads) {
    for (const std::int64_t head_dim : {128, 256}) {
        cpu::AttentionOptions options = scaled(head_dim);
        options.softcap = 1.5F;
        options.window = 33;
        CudaProblem(mixed_batch(), {head_dim, 4}).check(options);
    }
}

NATIVE_TEST(cuda, contexts_longer_than_a_block_of_keys) {
    CudaProblem narrow(long_batch(), {64, 2});
    for (const std::int64_t window : {0, 3, 100}) {
        cpu::AttentionOptions options = scaled(64);
        options.window = window;
        narrow.check(options);
    }
    for (const std::int64_t head_dim : {128, 256}) {
        CudaProblem(long_batch(), {head_dim, 1}).check(scaled(head_dim));
    }
}

// The first and the last row's own key at every place around the end of a block.
NATIVE_TEST(cuda, own_keys_around_the_end_of_a_block) {
    Sizes sizes;
    for (std::int64_t start = 60; start <= 66; ++start) sizes.push_back({{start}, 3});
    for (const std::int64_t window : {0, 2, 63, 64, 65}) {
        cpu::AttentionOptions options = scaled(64);
        options.window = window;
        CudaProblem(sizes, {64, 1}).check(options);
    }
}

NATIVE_TEST(cuda, split_contexts_are_merged) {
    CudaProblem problem(long_batch(), {64, 3});
    cpu::AttentionOptions options = scaled(64);
    for (const std::int32_t keys_per_split : {1000, 64, 17}) problem.check(options, keys_per_split);
    // A window leaves parts without a key, and a sink counts once.
    options.window = 50;
    problem.check(options, 40);
    options.sinks = kSinks.data();
    problem.check(options, 40);
    CudaProblem(mixed_batch(), {128, 4, Dtype::kFloat16}).check(scaled(128), 32);
    CudaProblem(mixed_batch(), {256, 1}).check(scaled(256), 32);
}

// Scores of hundreds: the largest one has to be taken out before the exponential.
NATIVE_TEST(cuda, large_scores) {
    CudaProblem problem(mixed_batch(), {64, 2});
    cpu::AttentionOptions options = {.scaling = 60.0F};
    for (const float value : problem.run(options)) CHECK(std::abs(value) <= 1.0F);
    options.softcap = 2.0F;
    problem.check(options);
    options.scaling = -60.0F;
    problem.check(options);
}

// Bit for bit the same, whichever warp is ahead of the others.
NATIVE_TEST(cuda, the_order_of_warps_changes_no_bit) {
    for (const std::int64_t head_dim : {64, 128, 256}) {
        CudaProblem problem({{{63, 1, 64}, 50}}, {head_dim, 3});
        const std::int32_t keys_per_split = head_dim == 128 ? 48 : 0;
        const Floats forward = problem.run(scaled(head_dim), keys_per_split);
        cuda::set_warp_order(cuda::WarpOrder::kLastToFirst);
        CHECK(problem.run(scaled(head_dim), keys_per_split) == forward);
        cuda::set_warp_order(cuda::WarpOrder::kFirstToLast);
    }
}

// A segment's results do not depend on what else is in the batch.
NATIVE_TEST(cuda, other_segments_change_no_bit) {
    const cpu::AttentionOptions options = scaled(64);
    for (const std::int32_t keys_per_split : {0, 40}) {
        const Floats alone = CudaProblem({{{63, 1, 64}, 3}}, {64, 3}).run(options, keys_per_split);
        const Floats beside = CudaProblem({{{63, 1, 64}, 3}, {{2}, 90}, {{}, 1}}, {64, 3})
                                  .run(options, keys_per_split);
        // The first segment has the same numbers in both: they are drawn in the order of rows.
        CHECK(std::equal(alone.begin(), alone.end(), beside.begin()));
    }
}

// What no window reaches is not read at all, not even with a weight of zero.
NATIVE_TEST(cuda, keys_before_the_window_are_not_read) {
    cpu::AttentionOptions options = scaled(64);
    options.window = 4;
    CudaProblem problem(mixed_batch(), {64, 3});
    const Floats before = problem.run(options);
    for (const cpu::Segment& segment : problem.layout().segments) {
        for (const cpu::KeyRange& range : segment.ranges) {
            const std::int64_t hidden = segment.start - options.window + 1 - range.position;
            for (std::int64_t k = 0; k < std::min(range.count, hidden); ++k) {
                problem.write(range.slot + k, kNan, kNan);
            }
        }
    }
    CHECK(problem.run(options) == before);
}

NATIVE_TEST(cuda, shared_memory_is_read_without_bank_conflicts) {
    for (const std::int64_t head_dim : {64, 128, 256}) {
        CudaProblem problem(mixed_batch(), {head_dim, 1});
        cuda::emulation_counts() = {};
        (void)problem.run(scaled(head_dim));
        CHECK(cuda::emulation_counts().matrix_products > 0);
        CHECK_EQUAL(cuda::emulation_counts().bank_conflicts, 0);
    }
}

// Every key is copied once for each tile of rows that sees it, and no other.
NATIVE_TEST(cuda, only_visible_keys_are_copied) {
    CudaProblem problem({{{100}, 20}}, {64, 3});
    cpu::AttentionOptions options = scaled(64);
    cuda::emulation_counts() = {};
    (void)problem.run(options);
    const std::int64_t row_bytes = 64 * 2;
    const std::int64_t heads = CudaProblem::kKvHeads;
    // 60 rows are one tile of 64.
    CHECK_EQUAL(cuda::emulation_counts().copied_bytes, (60 + 2 * 120) * heads * row_bytes);
    options.window = 8;
    cuda::emulation_counts() = {};
    (void)problem.run(options);
    CHECK_EQUAL(cuda::emulation_counts().copied_bytes, (60 + 2 * 27) * heads * row_bytes);
}

NATIVE_TEST(cuda, tiles_cover_all_rows_and_keys_once) {
    const std::vector<cuda::Segment> segments = {{0, 30, 100, 0, 2}, {30, 1, 5, 2, 3}};
    const cuda::TilePlan whole = cuda::plan_tiles(segments, 3, 64, 0);
    CHECK_EQUAL(whole.tiles.size(), 3U);  // 90 rows and 3 rows
    CHECK(whole.merges.empty());
    const cuda::Tile& longest = whole.tiles.front();
    CHECK(longest.row == 64 && longest.key_begin == 0 && longest.key_end == 130);
    const cuda::TilePlan split = cuda::plan_tiles(segments, 3, 64, 50);
    CHECK_EQUAL(split.merges.size(), 2U);
    CHECK_EQUAL(split.n_partials, 6);
    std::int64_t n_keys = 0;
    for (const cuda::Tile& tile : split.tiles) n_keys += tile.key_end - tile.key_begin;
    CHECK_EQUAL(n_keys, 122 + 130 + 6);
    CHECK_EQUAL(cuda::plan_tiles(segments, 3, 128, 0).tiles.size(), 2U);
}

NATIVE_TEST(cuda, bad_calls_are_refused) {
    CudaProblem problem({{{3}, 2}}, {64, 1});
    using Call = cuda::AttentionCall;
    CHECK_EQUAL(problem.status_of([](Call& call) { call.head_dim = 80; }),
                static_cast<std::int32_t>(cuda::kUnsupportedHeadDim));
    CHECK_EQUAL(problem.status_of([](Call& call) { call.dtype = 7; }),
                static_cast<std::int32_t>(cuda::kUnsupportedDtype));
    CHECK_EQUAL(problem.status_of([](Call& call) { call.keys.row_stride = 65; }),
                static_cast<std::int32_t>(cuda::kMisaligned));
    CHECK_EQUAL(
        problem.status_of([](Call& call) { call.values.row_stride = std::int64_t{1} << 31; }),
        static_cast<std::int32_t>(cuda::kBadSizes));
    CHECK_EQUAL(problem.status_of([](Call& call) { call.group = 0; }),
                static_cast<std::int32_t>(cuda::kBadSizes));
    CHECK_EQUAL(problem.status_of([](Call& call) { call.products = 2; }),
                static_cast<std::int32_t>(cuda::kUnsupportedProducts));
    CHECK_EQUAL(problem.status_of([](Call& call) { call.products = 1; }),
                static_cast<std::int32_t>(cuda::kWrongTileRows));
    CHECK_EQUAL(problem.status_of([](Call& call) { call.n_tiles = 0; }),
                static_cast<std::int32_t>(cuda::kOk));
}

// The tests of the emulation: mistakes that it is there to show.

NATIVE_TEST(cuda, emulated_products_are_matrix_products) {
    const Floats a = random_floats(16 * 16, 5);
    const Floats b = random_floats(16 * 8, 6);
    std::vector<std::array<float, 4>> sums(cuda::kEmulatedLanes);
    const auto value = [](const Floats& values, std::size_t at) {
        return cuda::Float16::widen(cuda::Float16::round(values[at]));
    };
    const std::int32_t status = run_warp([&] {
        const std::size_t group = threadIdx.x / 4;
        const std::size_t column = threadIdx.x % 4 * 2;
        const auto pair = [](const Floats& values, std::size_t first, std::size_t step) {
            return cuda::pack<cuda::Float16>(values[first], values[first + step]);
        };
        const std::uint32_t left[4] = {
            pair(a, group * 16 + column, 1), pair(a, (group + 8) * 16 + column, 1),
            pair(a, group * 16 + column + 8, 1), pair(a, (group + 8) * 16 + column + 8, 1)};
        float sum[4] = {1.0F, 2.0F, 3.0F, 4.0F};
        cuda::mma<cuda::Float16>(sum, left, pair(b, column * 8 + group, 8),
                                 pair(b, (column + 8) * 8 + group, 8));
        sums[threadIdx.x] = {sum[0], sum[1], sum[2], sum[3]};
    });
    CHECK_EQUAL(status, static_cast<std::int32_t>(cuda::kOk));
    for (std::size_t lane = 0; lane < sums.size(); ++lane) {
        for (std::size_t i = 0; i < 4; ++i) {
            double wanted = static_cast<double>(i) + 1.0;
            const std::size_t row = lane / 4 + i / 2 * 8;
            const std::size_t column = lane % 4 * 2 + i % 2;
            for (std::size_t k = 0; k < 16; ++k) {
                wanted += double{value(a, row * 16 + k)} * value(b, k * 8 + column);
            }
            CHECK_NEAR(static_cast<double>(sums[lane][i]), wanted, 1e-5);
        }
    }
}

NATIVE_TEST(cuda, emulated_formats_round_to_nearest) {
    for (std::uint32_t bits = 0; bits < 0x7C00; ++bits) {
        const auto half = static_cast<std::uint16_t>(bits);
        CHECK_EQUAL(cuda::Float16::round(cuda::Float16::widen(half)), half);
        CHECK_EQUAL(cuda::Bfloat16::round(cuda::Bfloat16::widen(half)), half);
    }
    CHECK_EQUAL(cuda::Float16::round(2049.0F), cuda::Float16::round(2048.0F));
    CHECK_EQUAL(cuda::Float16::round(2051.0F), cuda::Float16::round(2052.0F));
    CHECK_EQUAL(cuda::Float16::round(1e6F), 0x7C00);
    CHECK_EQUAL(cuda::Bfloat16::round(257.0F), cuda::Bfloat16::round(256.0F));
}

NATIVE_TEST(cuda, emulated_copies_arrive_when_they_are_waited_for) {
    alignas(16) std::array<std::uint16_t, 8> source{1, 2, 3, 4, 5, 6, 7, 8};
    std::array<std::uint16_t, 2> seen{};
    const std::int32_t status = run_warp([&] {
        auto* shared = reinterpret_cast<std::uint16_t*>(cuda::shared_memory());
        if (threadIdx.x == 0) {
            cuda::cp_async_16(shared, source.data(), true);
            seen[0] = shared[0];
            cuda::cp_async_wait_all();
            seen[1] = shared[0];
        }
        __syncwarp();
    });
    CHECK_EQUAL(status, static_cast<std::int32_t>(cuda::kOk));
    CHECK_EQUAL(seen[0], 0xFFFF);
    CHECK_EQUAL(seen[1], 1);
}

NATIVE_TEST(cuda, emulated_launches_report_mistakes) {
    const auto refused = [](const char* wanted, const auto& work) {
        const std::int32_t status = run_warp(work, 64);
        CHECK_EQUAL(status, static_cast<std::int32_t>(cuda::kEmulationFailed));
        CHECK_EQUAL(std::string(cuda::icm_fast_cuda_status_text(status)), wanted);
    };
    alignas(16) std::array<std::uint16_t, 8> source{};
    refused("cp.async outside shared memory",
            [&] { cuda::cp_async_16(cuda::shared_memory() + 64, source.data(), true); });
    refused("cp.async at an address that is no multiple of 16",
            [&] { cuda::cp_async_16(cuda::shared_memory() + 2, source.data(), true); });
    refused("threads wait for others that never come", [] {
        if (threadIdx.x > 0) __syncthreads();
    });
    refused("lanes of one warp do different things together", [] {
        if (threadIdx.x % 2 == 0) {
            __syncwarp();
        } else {
            (void)__shfl_xor_sync(0xFFFFFFFFU, 1.0F, 1);
        }
    });
    // The next launch starts anew.
    CHECK_EQUAL(run_warp([] { __syncthreads(); }), static_cast<std::int32_t>(cuda::kOk));
}

}  // namespace icm_fast::tests
