// The kernels with warpgroup products on the emulated device, and what that emulation is there for.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/box_copies_emulation.hpp"
#include "tests/check.hpp"
#include "tests/cuda_problem.hpp"
#include "tests/inputs.hpp"
#include "tests/warp_roles_emulation.hpp"
#include "tests/wgmma_emulation.hpp"

namespace icm_fast::tests {
namespace {

using Sizes = std::vector<SegmentSizes>;
using cuda::Dtype;
using cuda::Products;

constexpr std::array<float, 8> kSinks = {0.3F, -1.0F, 2.0F, 0.0F, 5.0F, -3.0F, 30.0F, -40.0F};

// Many short ranges; counts around a block of 64 keys and around the tile of 128 rows.
Sizes batch() {
    std::vector<std::int64_t> deep;
    for (std::int64_t k = 0; k < 70; ++k) deep.push_back(1 + k * k % 3);
    return {{{13}, 11}, {{5, 3}, 1}, {{}, 7}, {deep, 5}, {{63, 1, 64}, 50}, {{64}, 44}, {{}, 1}};
}

CudaShape shape(std::int64_t head_dim, std::int64_t group, Dtype dtype = Dtype::kBfloat16) {
    return {head_dim, group, dtype, Products::kWgmma};
}

cpu::AttentionOptions scaled(std::int64_t head_dim) {
    return {.scaling = 3.0F / std::sqrt(static_cast<float>(head_dim))};
}

// 128 bytes to a row; the first eight rows and eight chunks are the swizzling's figure in the
// manual.
std::uint32_t by_hand(std::uint32_t row, std::uint32_t column) {
    return row * 128 + (column / 8 ^ row % 8) * 16 + column % 8 * 2;
}

std::uint64_t descriptor(std::uint32_t start, std::uint32_t leading, std::uint32_t stride) {
    return std::uint64_t{1} << 62U | std::uint64_t{stride / 16} << 32U |
           std::uint64_t{leading / 16} << 16U | start / 16;
}

// A right operand of zeros at the beginning of shared memory, and a thread's registers.
struct Operands {
    float sum[8][4] = {};
    std::uint32_t a[1][4] = {};
    std::uint64_t b = descriptor(1024, 16, 1024);

    Operands() {
        static const std::array<std::uint16_t, 8> zeros = {};
        for (std::size_t k = threadIdx.x; k < 512; k += 128) {
            cuda::cp_async_16(cuda::shared_memory() + 16 * k, zeros.data(), false);
        }
        cuda::cp_async_wait_all();
    }
    void begin() { cuda::wgmma<cuda::Float16, false>(sum, a[0], b, true); }
    static void end() {
        cuda::wgmma_commit();
        cuda::wgmma_wait<0>();
    }
};

// What a launch says; of one warpgroup, unless it is told otherwise.
template <typename Work>
std::string failure(const Work& work, std::int32_t n_threads = 128) {
    const std::int32_t status = cuda::run_launch({{1, 1}, n_threads, 8192, work});
    if (status == cuda::kOk) return "";
    return cuda::icm_fast_cuda_status_text(status);
}

}  // namespace

NATIVE_TEST(cuda_wgmma, every_width_dtype_and_group) {
    for (const Dtype dtype : {Dtype::kBfloat16, Dtype::kFloat16}) {
        for (const std::int64_t head_dim : {64, 128}) {
            for (const std::int64_t group : {1, 3}) {
                CudaProblem(batch(), shape(head_dim, group, dtype)).check(scaled(head_dim));
            }
        }
    }
}

NATIVE_TEST(cuda_wgmma, windows_caps_and_sinks) {
    for (const std::int64_t head_dim : {64, 128}) {
        CudaProblem problem(batch(), shape(head_dim, 4));
        for (const std::int64_t window : {0, 2, 65}) {
            for (const float softcap : {0.0F, 1.5F}) {
                cpu::AttentionOptions options = scaled(head_dim);
                options.window = window;
                options.softcap = softcap;
                options.sinks = (window == 2) == (softcap > 0.0F) ? kSinks.data() : nullptr;
                problem.check(options);
            }
        }
    }
}

// The first and the last row's own key, and the ends of windows, at every place around the end of a
// block.
NATIVE_TEST(cuda_wgmma, own_keys_around_the_end_of_a_block) {
    Sizes sizes;
    for (std::int64_t start = 60; start <= 66; ++start) sizes.push_back({{start}, 3});
    for (const std::int64_t window : {0, 2, 63, 64, 65, 66}) {
        cpu::AttentionOptions options = scaled(64);
        options.window = window;
        CudaProblem(sizes, shape(64, 1)).check(options);
    }
    // A part whose first block begins with the one key that only the last row does not see.
    cpu::AttentionOptions options = scaled(64);
    options.window = 250;
    CudaProblem({{{300}, 128}}, shape(64, 1)).check(options, 177);
}

NATIVE_TEST(cuda_wgmma, split_contexts_are_merged) {
    for (const std::int64_t head_dim : {64, 128}) {
        CudaProblem problem(batch(), shape(head_dim, 3));
        cpu::AttentionOptions options = scaled(head_dim);
        for (const std::int32_t keys_per_split : {64, 17}) problem.check(options, keys_per_split);
        // A window leaves parts without a key, and a sink counts once.
        options.window = 50;
        options.sinks = kSinks.data();
        problem.check(options, 40);
    }
}

// Many more blocks than stages, so that each stage is filled again and again, with one warpgroup
// and with two that compute; whoever is ahead of the others.
NATIVE_TEST(cuda_wgmma, long_contexts_go_through_all_stages) {
    for (const cuda::WarpOrder order :
         {cuda::WarpOrder::kLastToFirst, cuda::WarpOrder::kFirstToLast}) {
        cuda::set_warp_order(order);
        CudaProblem({{{700, 3, 41}, 20}, {{900}, 50}}, shape(64, 3)).check(scaled(64));
        cpu::AttentionOptions options = scaled(128);
        options.window = 600;
        CudaProblem({{{900}, 70}}, shape(128, 2)).check(options, 450);
    }
    cuda::set_warp_order(cuda::WarpOrder::kFirstToLast);
}

// One block to three times round the stages, and a key more or less.
NATIVE_TEST(cuda_wgmma, every_number_of_blocks) {
    Sizes sizes;
    for (const std::int64_t blocks : {1, 2, 3, 4, 5, 8, 9, 12}) {
        for (const std::int64_t rows : {10, 100}) {
            const std::int64_t keys = 64 * blocks - rows;
            for (const std::int64_t more : {-1, 0, 1}) {
                if (keys + more > 0) sizes.push_back({{keys + more}, rows});
            }
        }
    }
    for (const cuda::WarpOrder order :
         {cuda::WarpOrder::kLastToFirst, cuda::WarpOrder::kFirstToLast}) {
        cuda::set_warp_order(order);
        CudaProblem(sizes, shape(64, 1)).check(scaled(64));
    }
}

NATIVE_TEST(cuda_wgmma, large_scores) {
    CudaProblem problem(batch(), shape(64, 2));
    for (const float value : problem.run({.scaling = 60.0F})) CHECK(std::abs(value) <= 1.0F);
}

NATIVE_TEST(cuda_wgmma, the_order_of_warps_changes_no_bit) {
    CudaProblem problem({{{63, 1, 64}, 50}}, shape(128, 3));
    const Floats forward = problem.run(scaled(128), 100);
    cuda::set_warp_order(cuda::WarpOrder::kLastToFirst);
    CHECK(problem.run(scaled(128), 100) == forward);
    cuda::set_warp_order(cuda::WarpOrder::kFirstToLast);
}

NATIVE_TEST(cuda_wgmma, other_segments_change_no_bit) {
    const cpu::AttentionOptions options = scaled(64);
    const Floats alone = CudaProblem({{{63, 1, 64}, 3}}, shape(64, 3)).run(options);
    const Floats beside =
        CudaProblem({{{63, 1, 64}, 3}, {{2}, 90}, {{}, 1}}, shape(64, 3)).run(options);
    CHECK(std::equal(alone.begin(), alone.end(), beside.begin()));
}

// A tile of 128 rows reads each key once, where two of 64 would read it twice.
NATIVE_TEST(cuda_wgmma, two_warpgroups_share_the_keys) {
    CudaProblem problem({{{100}, 40}}, shape(64, 3));
    cuda::emulation_counts() = {};
    (void)problem.run(scaled(64));
    const std::int64_t row_bytes = 64 * 2;
    CHECK_EQUAL(cuda::emulation_counts().copied_bytes,
                (120 + 2 * 140) * CudaProblem::kKvHeads * row_bytes);
    CHECK_EQUAL(cuda::emulation_counts().matrix_products, 0);
    // Three blocks, two warpgroups, four steps along the width and as many along the keys.
    CHECK_EQUAL(cuda::emulation_counts().warpgroup_products, 3 * 2 * (4 + 4) * 2);
}

NATIVE_TEST(cuda_wgmma, a_warpgroup_without_rows_computes_nothing) {
    cuda::emulation_counts() = {};
    CudaProblem({{{100}, 20}}, shape(64, 3)).check(scaled(64));
    CHECK_EQUAL(cuda::emulation_counts().warpgroup_products, 2 * (4 + 4) * CudaProblem::kKvHeads);
}

// Of the three blocks of this context the first one lies in one piece, the second one is of two
// ranges, and the third one ends early.
NATIVE_TEST(cuda_wgmma, a_block_in_one_piece_is_copied_in_boxes) {
    for (const std::int64_t head_dim : {64, 128}) {
        CudaProblem problem({{{100}, 40}}, shape(head_dim, 3));
        cuda::emulation_counts() = {};
        const Floats boxed = problem.run(scaled(head_dim));
        // Of 64 columns each, of keys and of values.
        CHECK_EQUAL(cuda::emulation_counts().boxes, head_dim / 64 * 2 * CudaProblem::kKvHeads);
        const std::int64_t copied = cuda::emulation_counts().copied_bytes;
        CHECK(problem.copies_boxes());
        cuda::set_box_maps(false);
        CHECK(!problem.copies_boxes());
        cuda::emulation_counts() = {};
        CHECK(problem.run(scaled(head_dim)) == boxed);
        cuda::set_box_maps(true);
        CHECK_EQUAL(cuda::emulation_counts().boxes, 0);
        CHECK_EQUAL(cuda::emulation_counts().copied_bytes, copied);
    }
}

// Row by row and in boxes in turn, with all stages in use: the same bits as row by row alone.
NATIVE_TEST(cuda_wgmma, boxes_and_rows_take_turns) {
    CudaProblem problem({{{70, 200, 5, 64, 1, 128, 31, 300}, 30}}, shape(64, 3));
    cuda::set_box_maps(false);
    const Floats rows = problem.run(scaled(64));
    cuda::set_box_maps(true);
    for (const cuda::WarpOrder order :
         {cuda::WarpOrder::kLastToFirst, cuda::WarpOrder::kFirstToLast}) {
        cuda::set_warp_order(order);
        cuda::emulation_counts() = {};
        CHECK(problem.run(scaled(64)) == rows);
        CHECK(cuda::emulation_counts().boxes > 0);
    }
}

NATIVE_TEST(cuda_wgmma, wide_heads_take_the_other_kernel) {
    CHECK_EQUAL(cuda::icm_fast_cuda_tile_rows(1, 256), cuda::kTileRows);
    cuda::emulation_counts() = {};
    CudaProblem problem({{{13}, 11}}, shape(256, 1));
    problem.check(scaled(256));
    CHECK(!problem.copies_boxes());
    CHECK_EQUAL(cuda::emulation_counts().warpgroup_products, 0);
}

// Against the manual's figures for 128 bytes, and its examples of other modes.
NATIVE_TEST(cuda_wgmma, descriptors_are_read_as_in_the_manual) {
    for (std::uint32_t k = 0; k < 16; ++k) {
        for (std::uint32_t n = 0; n < 64; ++n) {
            const std::uint64_t rows = descriptor(2048, 16, 1024);
            CHECK_EQUAL(cuda::wgmma_element(rows, false, k, n), 2048 + by_hand(n, k));
            CHECK_EQUAL(cuda::wgmma_element(rows + 96 / 16, false, k, n),
                        2048 + by_hand(n, k + 48));
            CHECK_EQUAL(cuda::wgmma_element(rows, true, k, n), 2048 + by_hand(k, n));
            const std::uint64_t panels = descriptor(2048, 8192, 1024);
            CHECK_EQUAL(cuda::wgmma_element(panels, true, k, n + 64), 10240 + by_hand(k, n));
        }
    }
    // ((8,1,2),(8,2)):((1,8,64),(8,128)) in bfloat16, not swizzled.
    const std::uint64_t plain = std::uint64_t{8} << 32U | std::uint64_t{16} << 16U;
    CHECK_EQUAL(cuda::wgmma_element(plain, true, 9, 11), 2U * (3 + 64 + 8 + 128));
    // Swizzle<1,4,3> o ((8,2,2),(8,2)):((1,8,128),(16,256)): bit 7 of the address goes to bit 4.
    const std::uint64_t narrow =
        std::uint64_t{3} << 62U | std::uint64_t{32} << 32U | std::uint64_t{16} << 16U;
    CHECK_EQUAL(cuda::wgmma_element(narrow, true, 9, 27), 2U * (3 + 8 + 128 + 16 + 256));
    CHECK_EQUAL(cuda::wgmma_element(narrow, true, 13, 27), 2U * (3 + 128 + 5 * 16 + 256));
}

NATIVE_TEST(cuda_wgmma, mistakes_are_reported) {
    CHECK_EQUAL(failure([] {
                    Operands operands;
                    cuda::fence_proxy_async();
                    __syncthreads();
                    cuda::wgmma_fence();
                    operands.begin();
                    Operands::end();
                }),
                std::string());
    CHECK_EQUAL(failure([] {
                    Operands operands;
                    __syncthreads();
                    cuda::wgmma_fence();
                    operands.begin();
                }),
                std::string("wgmma reads a copy that was not fenced"));
    CHECK_EQUAL(failure([] {
                    Operands operands;
                    cuda::fence_proxy_async();
                    __syncthreads();
                    operands.begin();
                }),
                std::string("wgmma without wgmma.fence"));
    CHECK_EQUAL(failure([] {
                    Operands operands;
                    operands.b = descriptor(1024, 16, 16384);
                    cuda::fence_proxy_async();
                    __syncthreads();
                    cuda::wgmma_fence();
                    operands.begin();
                }),
                std::string("wgmma reads outside shared memory"));
}

// Two warps, of which the first one waits for what the second one does.
NATIVE_TEST(cuda_wgmma, barriers_of_warps_with_different_tasks) {
    const auto status = [](std::int32_t n_threads, const auto& work) {
        return failure(work, n_threads);
    };
    const auto barrier = [] {
        return reinterpret_cast<cuda::StageBarrier*>(cuda::shared_memory());
    };
    int seen = 0;
    const auto counted = [&](int n_arrivals, int phase) {
        return [&, n_arrivals, phase] {
            if (threadIdx.x == 0) cuda::start_barrier(*barrier(), n_arrivals);
            __syncthreads();
            if (threadIdx.x < 32) {
                cuda::wait_for_phase(*barrier(), phase);
                return;
            }
            if (threadIdx.x == 32) ++seen;
            cuda::arrive_at(*barrier());
        };
    };
    CHECK_EQUAL(status(64, counted(32, 0)), std::string());
    CHECK_EQUAL(seen, 1);
    CHECK_EQUAL(status(64, counted(33, 0)), std::string("threads wait for others that never come"));
    CHECK_EQUAL(status(64, counted(32, 2)), std::string("waits for a phase that has not begun"));
    cuda::set_warp_order(cuda::WarpOrder::kLastToFirst);
    CHECK_EQUAL(status(64, counted(32, 0)), std::string());
    CHECK_EQUAL(status(64,
                       [&] {
                           if (threadIdx.x == 0) cuda::start_barrier(*barrier(), 1);
                           __syncthreads();
                           for (int k = 0; k < 2 && threadIdx.x == 32; ++k) {
                               cuda::arrive_at(*barrier());
                           }
                           __syncthreads();
                           cuda::wait_for_phase(*barrier(), 0);
                       }),
                std::string("waits for a phase that is long over"));
    cuda::set_warp_order(cuda::WarpOrder::kFirstToLast);
    CHECK_EQUAL(status(64, [&] { cuda::arrive_at(*barrier()); }),
                std::string("a barrier that was not started"));
    CHECK_EQUAL(status(64,
                       [&] {
                           if (threadIdx.x == 0) cuda::start_barrier(*barrier(), 1);
                           __syncthreads();
                           if (threadIdx.x == 32) barrier()->state = 0;
                           __syncthreads();
                           cuda::wait_for_phase(*barrier(), 0);
                       }),
                std::string("a barrier was written over"));
    // What comes after an arrival comes too late for those who waited.
    int before = 0;
    int after = 0;
    CHECK_EQUAL(status(64,
                       [&] {
                           if (threadIdx.x == 32) cuda::start_barrier(*barrier(), 1);
                           __syncthreads();
                           if (threadIdx.x == 0) {
                               cuda::wait_for_phase(*barrier(), 0);
                               before = after;
                           }
                           if (threadIdx.x == 32) {
                               cuda::arrive_at(*barrier());
                               after = 1;
                           }
                       }),
                std::string());
    CHECK(before == 0 && after == 1);
    CHECK_EQUAL(status(32, [] { cuda::meet_if(threadIdx.x % 2 == 0, 1, 32); }),
                std::string("lanes of one warp come to different barriers"));
    CHECK_EQUAL(status(64, [] { cuda::meet(1, threadIdx.x < 32 ? 64 : 96); }),
                std::string("threads count on different numbers at a barrier"));
    CHECK_EQUAL(status(64, [] { cuda::announce_if(threadIdx.x >= 32, 1, 64); }),
                std::string("threads came to a barrier for nothing"));
    CHECK_EQUAL(status(64,
                       [] {
                           cuda::meet_if(threadIdx.x < 32, 1, 64);
                           cuda::announce_if(threadIdx.x >= 32, 1, 64);
                       }),
                std::string());
}

// One warp; its first thread copies and all arrive.
NATIVE_TEST(cuda_wgmma, boxes_arrive_with_the_last_arrival) {
    std::vector<std::uint16_t> pool(3 * 8 * 64);  // two heads of which the second has three boxes
    for (std::size_t k = 0; k < pool.size(); ++k) pool[k] = static_cast<std::uint16_t>(k);
    cuda::BoxMap map{};
    CHECK(cuda::map_boxes(map, {pool.data(), 8 * 64, 64}, 2, 16, 64, Dtype::kBfloat16, 8));
    std::array<std::uint16_t, 2> seen{};
    struct Copy {
        int n_expected = 1024, column = 0, slot = 0, head = 0, target = 1024;
    };
    const auto run = [&](const Copy& copy) {
        return failure(
            [&, copy] {
                auto& barrier = *reinterpret_cast<cuda::StageBarrier*>(cuda::shared_memory());
                const auto* at =
                    reinterpret_cast<const std::uint16_t*>(cuda::shared_memory() + 1024);
                if (threadIdx.x == 0) {
                    cuda::start_barrier(barrier, 32);
                    cuda::expect_bytes(barrier, copy.n_expected);
                    cuda::copy_box(cuda::shared_memory() + copy.target, map, copy.column, copy.slot,
                                   copy.head, barrier);
                    seen[0] = at[64];
                }
                __syncthreads();
                cuda::arrive_at(barrier);
                cuda::wait_for_phase(barrier, 0);
                // Chunk 2 of row 1 lies where chunk 3 of a tile in rows would.
                seen[1] = at[64 + 3 * 8];
            },
            32);
    };
    CHECK_EQUAL(run({.slot = 5, .head = 1}), std::string());
    CHECK_EQUAL(seen[0], 0xFFFF);
    CHECK_EQUAL(seen[1], (8 + 5 + 1) * 64 + 2 * 8);
    CHECK_EQUAL(run({.slot = 9}), std::string("a box outside its pool"));
    CHECK_EQUAL(run({.column = 64}), std::string("a box outside its pool"));
    CHECK_EQUAL(run({.head = 2}), std::string("a box outside its pool"));
    CHECK_EQUAL(run({.target = 7680}), std::string("a box outside shared memory"));
    CHECK_EQUAL(run({.target = 512}),
                std::string("a box at an address that is no multiple of 1,024"));
    CHECK_EQUAL(run({.n_expected = 512}), std::string("a box that nobody expects"));
    CHECK_EQUAL(run({.n_expected = 2048}), std::string("a box is expected and never begun"));
}

NATIVE_TEST(cuda_wgmma, groups_of_copies_arrive_in_their_order) {
    alignas(16) std::array<std::uint16_t, 8> source{1, 2, 3, 4, 5, 6, 7, 8};
    std::array<std::array<std::uint16_t, 2>, 3> seen{};
    const std::int32_t status = cuda::run_launch(
        {{1, 1}, 32, 64, [&] {
             if (threadIdx.x > 0) return;
             auto* shared = reinterpret_cast<std::uint16_t*>(cuda::shared_memory());
             const auto look = [&](std::size_t k) { seen[k] = {shared[0], shared[8]}; };
             for (int k = 0; k < 2; ++k) {
                 cuda::cp_async_16(shared + 8 * k, source.data(), true);
                 cuda::cp_async_commit();
             }
             look(0);
             cuda::cp_async_wait<1>();
             look(1);
             cuda::cp_async_wait<0>();
             look(2);
         }});
    CHECK_EQUAL(status, static_cast<std::int32_t>(cuda::kOk));
    CHECK(seen[0][0] == 0xFFFF && seen[0][1] == 0xFFFF);
    CHECK(seen[1][0] == 1 && seen[1][1] == 0xFFFF);
    CHECK(seen[2][0] == 1 && seen[2][1] == 1);
}

NATIVE_TEST(cuda_wgmma, what_products_use_must_stay) {
    const auto with = [](void (*spoil)(Operands&)) {
        return failure([spoil] {
            Operands operands;
            cuda::fence_proxy_async();
            __syncthreads();
            cuda::wgmma_fence();
            operands.begin();
            spoil(operands);
            Operands::end();
        });
    };
    CHECK_EQUAL(with([](Operands& operands) { operands.sum[1][2] = 0.0F; }),
                std::string("sums were written while wgmma had them"));
    CHECK_EQUAL(with([](Operands& operands) { operands.a[0][3] = 1; }),
                std::string("the left operand was written while wgmma read it"));
    CHECK_EQUAL(with([](Operands&) { cuda::shared_memory()[threadIdx.x] = 1; }),
                std::string("shared memory was written while wgmma read it"));
    CHECK_EQUAL(with([](Operands& operands) {
                    cuda::cp_async_16(cuda::shared_memory(), operands.a, false);
                }),
                std::string("wgmma reads a copy that was not fenced"));
}

}  // namespace icm_fast::tests
