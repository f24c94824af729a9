// Tree attention with warpgroup products. Include after the device's instructions and wgmma's.
//
// A block of threads has a tile of 128 query rows, 64 for each of its two warpgroups, which share
// the keys and values in shared memory. It begins the scores of one block of keys and then the
// values' sum of the block before; while the latter goes on, the scores become weights.
#pragma once

#include <cstdint>

#include "cuda/tile_memory.cuh"
#include "cuda/tree_attention.cuh"
#include "cuda/warp_attention.cuh"

namespace icm_fast::cuda {

// A tile of keys or values as products read it: panels of 64 columns one after the other, each with
// rows of 128 bytes whose 16-byte chunks are exchanged by the row's number (PTX: 128-byte
// swizzling). Eight rows are the unit that repeats; a tile begins at a multiple of its 1,024 bytes.
template <int kTileRowCount>
struct PanelTile {
    static constexpr int kColumns = 64;
    static constexpr int kRowBytes = 2 * kColumns;
    static constexpr int kUnitBytes = 8 * kRowBytes;
    static constexpr int kPanelBytes = kTileRowCount * kRowBytes;

    static __device__ __forceinline__ int at(int row, int chunk) {
        constexpr int kChunks = kColumns / kChunk;
        return (chunk / kChunks * kTileRowCount + row) * kColumns +
               (chunk % kChunks ^ row % kChunks) * kChunk;
    }

    // The tile's rows as columns of a right operand: 16 columns of the tile for each step. The
    // pattern goes by the address, so a step into it needs no more than a later start.
    struct RowsAsColumns {
        // With this swizzling no distance along the row is read; 1 by convention.
        __device__ explicit RowsAsColumns(const std::uint16_t* tile)
            : first(descriptor(tile, 16, kUnitBytes)) {}
        __device__ std::uint64_t operator[](int step) const {
            constexpr int kSteps = kColumns / 16;
            return later(first, step / kSteps * kPanelBytes + step % kSteps * 32);
        }
        std::uint64_t first;
    };

    // The tile's rows as rows of a right operand, 16 of them for each step.
    struct RowsAsRows {
        __device__ explicit RowsAsRows(const std::uint16_t* tile)
            : first(descriptor(tile, kPanelBytes, kUnitBytes)) {}
        __device__ std::uint64_t operator[](int step) const {
            return later(first, step * 16 * kRowBytes);
        }
        std::uint64_t first;
    };

  private:
    // `leading`: bytes to the next 64 columns; `stride`: to the next eight rows.
    static __device__ __forceinline__ std::uint64_t descriptor(const std::uint16_t* start,
                                                               int leading, int stride) {
        constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62U;
        return kSwizzle128 | static_cast<std::uint64_t>(stride >> 4) << 32U |
               static_cast<std::uint64_t>(leading >> 4) << 16U |
               (shared_address(start) & 0x3FFFFU) >> 4U;
    }

    // The same some bytes later: nothing is carried out of the address, nor out of the lower half.
    static __device__ __forceinline__ std::uint64_t later(std::uint64_t descriptor, int bytes) {
        const auto low =
            static_cast<std::uint32_t>(descriptor) + static_cast<std::uint32_t>(bytes >> 4);
        return (descriptor & 0xFFFFFFFF00000000U) | low;
    }
};

// Three stages: one block of keys is being copied, of one the scores are made, and of the one
// before the values are still read.
template <int kDim>
struct WarpgroupShape : TileSizes<kDim, kWarpgroupTileRows, 64, 3> {
    using KeyTile = PanelTile<64>;
    static constexpr bool kQueryInRegisters = true;
    // Two blocks of threads leave each thread 128 registers, which a soft-cap exceeds.
    static constexpr int blocks_per_sm(bool softcap) { return kDim == 64 && !softcap ? 2 : 1; }
    static_assert(2 * (WarpgroupShape::kBytes + 1024) <= 228 * 1024 || kDim > 64);
    static_assert(WarpgroupShape::kBytes <= 227 * 1024);
    static_assert(WarpgroupShape::kQueryElements * 2 % 1024 == 0);
    static_assert(WarpgroupShape::kKeyElements * 2 % 1024 == 0);
};

// Weights of a block of keys as left operands.
template <typename Shape>
using PackedWeights = std::uint32_t[Shape::kKeys / 16][4];

template <typename Element, typename Shape>
__device__ __forceinline__ void pack_weights(const Scores<Shape>& weights,
                                             PackedWeights<Shape>& packed) {
    ICM_FAST_UNROLL
    for (int step = 0; step < Shape::kKeys / 16; ++step) {
        ICM_FAST_UNROLL
        for (int i = 0; i < 4; ++i) {
            const float (&pair)[4] = weights[2 * step + i / 2];
            packed[step][i] = pack<Element>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
        }
    }
}

// Begins scores = query keys^T.
template <typename Element, typename Shape>
__device__ __forceinline__ void begin_scores(const QueryRows<Shape>& query,
                                             const std::uint16_t* keys, Scores<Shape>& scores) {
    const typename Shape::KeyTile::RowsAsColumns columns(keys);
    ICM_FAST_UNROLL
    for (int step = 0; step < Shape::kHeadDim / 16; ++step) {
        wgmma<Element, false>(scores, query.registers(step), columns[step], step > 0);
    }
    wgmma_commit();
}

// Begins out += weights values.
template <typename Element, typename Shape>
__device__ __forceinline__ void begin_values(const PackedWeights<Shape>& weights,
                                             const std::uint16_t* values,
                                             SoftmaxRows<Shape>& rows) {
    const typename Shape::KeyTile::RowsAsRows operands(values);
    ICM_FAST_UNROLL
    for (int step = 0; step < Shape::kKeys / 16; ++step) {
        wgmma<Element, true>(rows.out, weights[step], operands[step], true);
    }
    wgmma_commit();
}

// The copies that this thread has begun are there for products once the barrier is passed.
__device__ __forceinline__ void hand_over_copies() {
    cp_async_wait_all();
    fence_proxy_async();
    __syncthreads();
}

// What a warpgroup computes for its 64 rows: all but the copies, which the whole block makes.
template <typename Element, bool kSoftcap, typename Shape>
class WarpgroupRows {
  public:
    __device__ WarpgroupRows(const AttentionCall& call, const TileWork& work,
                             const std::uint16_t* query)
        : query_(query),
          scale_(logit_scale<kSoftcap>(call.scaling, call.softcap)),
          seen_(seen_keys(work, call.window)),
          full_begin_(call.window > 0 ? work.position(Shape::kRows - 1) - call.window + 1 : 0),
          full_end_(min(work.key_end, work.position(0) + 1)) {}

    // The first block of keys, from `position` on. `meanwhile` is done while products go on.
    template <typename Meanwhile>
    __device__ void first(const std::uint16_t* keys, int position, const Meanwhile& meanwhile) {
        pin(scores_);
        wgmma_fence();
        begin_scores<Element, Shape>(query_, keys, scores_);
        meanwhile();
        wgmma_wait<0>();
        pin(scores_);
        to_hidden_logits(position);
        softmax_.weigh(scores_);
        pack_weights<Element, Shape>(scores_, weights_);
    }

    // Another block of keys, and the values of the block before: while their sum is made, scores
    // become weights.
    template <typename Meanwhile>
    __device__ void next(const std::uint16_t* keys, const std::uint16_t* values, int position,
                         const Meanwhile& meanwhile) {
        pin(scores_);
        pin(weights_);
        pin(softmax_.out);
        wgmma_fence();
        begin_scores<Element, Shape>(query_, keys, scores_);
        begin_values<Element, Shape>(weights_, values, softmax_);
        meanwhile();
        wgmma_wait<1>();
        pin(scores_);
        to_hidden_logits(position);
        float factors[2];
        softmax_.weigh(scores_, [&](int row, float factor) { factors[row] = factor; });
        settle(softmax_.sum[0] + softmax_.sum[1]);
        wgmma_wait<0>();
        pin(softmax_.out);
        // In a long context the largest logit rises rarely, and factors are 1.
        if (__any_sync(0xFFFFFFFFU, factors[0] != 1.0F || factors[1] != 1.0F)) {
            ICM_FAST_UNROLL
            for (int row = 0; row < 2; ++row) softmax_.scale_values(row, factors[row]);
        }
        pack_weights<Element, Shape>(scores_, weights_);
    }

    // Adds the values of the last block.
    __device__ SoftmaxRows<Shape>& last(const std::uint16_t* values) {
        pin(weights_);
        pin(softmax_.out);
        wgmma_fence();
        begin_values<Element, Shape>(weights_, values, softmax_);
        wgmma_wait<0>();
        pin(softmax_.out);
        return softmax_;
    }

  private:
    __device__ void to_hidden_logits(int position) {
        to_logits<kSoftcap, Shape>(scale_, scores_);
        if (position < full_begin_ || position + Shape::kKeys > full_end_) {
            hide<Shape>(seen_, position, scores_);
        }
    }

    QueryRows<Shape> query_;
    LogitScale scale_;
    SeenKeys seen_;
    int full_begin_, full_end_;  // keys that all rows of the tile see
    SoftmaxRows<Shape> softmax_;
    float scores_[Shape::kKeys / 8][4] = {};
    PackedWeights<Shape> weights_;
};

// Attends for one tile and key-value head.
template <typename Element, int kHeadDim, bool kSoftcap>
__global__ void __launch_bounds__(WarpgroupShape<kHeadDim>::kThreads,
                                  WarpgroupShape<kHeadDim>::blocks_per_sm(kSoftcap))
    attend_warpgroups(const AttentionCall call) {
    using Shape = WarpgroupShape<kHeadDim>;
    const TileMemory<Shape> memory(shared_memory());
    const TileWork work = tile_work(call, Shape::kRows);
    KeyBlocks<Shape> blocks(call, work, memory);
    const int n_blocks = blocks.count();
    // The second half of a short tile has nothing to do but copies.
    const bool has_rows = work.has(warp() / 4 * 64);

    copy_query<Shape>(call, work, memory.query);
    blocks.find(0);
    blocks.find(1);
    __syncthreads();
    blocks.copy(0);
    hand_over_copies();

    WarpgroupRows<Element, kSoftcap, Shape> rows(call, work, memory.query);
    int block = 0;
    const auto copy_next = [&] {
        if (block + 1 < n_blocks) blocks.copy(block + 1);
        blocks.find(block + 2);
    };
    // One branch for all of a step: a product that went on behind its end would be waited for
    // there.
    if (has_rows) {
        // Where a window or a split leaves no key at all, this is a block of hidden ones.
        rows.first(memory.keys(0), blocks.position(0), copy_next);
    } else {
        copy_next();
    }
    for (block = 1; block < n_blocks; ++block) {
        // Also: nobody reads the stage of `block - 2` any more, the one that is filled next.
        hand_over_copies();
        if (has_rows) {
            rows.next(memory.keys(block), memory.values(block - 1), blocks.position(block),
                      copy_next);
        } else {
            copy_next();
        }
    }
    if (!has_rows) return;
    const std::uint16_t* values = memory.values(max(n_blocks - 1, 0));
    finish<Element>(call, work, rows.last(values), memory.query);
}

}  // namespace icm_fast::cuda
