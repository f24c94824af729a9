// Tree attention with warpgroup products. Include after the device's instructions, wgmma's, those
// of warps with different tasks and those that copy boxes.
//
// A block of threads has a tile of 128 query rows, 64 for each of two warpgroups, and a third
// warpgroup that copies the keys and values of both to shared memory: a block that lies in one
// piece by a few instructions of one thread, another one row by row. A warpgroup begins the scores
// of one block of keys and then the values' sum of the block before; while the latter goes on, the
// scores become weights. The two take turns in beginning: the tensor cores work for one while the
// other makes weights.
#pragma once

#include <cstdint>

#include "cuda/tile_memory.cuh"
#include "cuda/tree_attention.cuh"
#include "cuda/warp_attention.cuh"

namespace icm_fast::cuda {

inline constexpr int kWarpgroup = 128;  // threads

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

// Four stages: of one block of keys the scores are made, of the one before the values are still
// read, one is there, and one is being copied. Those who copy come last, so that the number of a
// computing warp is that of its rows.
template <int kDim>
struct WarpgroupShape : TileSizes<kDim, kWarpgroupTileRows, 64, 4> {
    using Sizes = TileSizes<kDim, kWarpgroupTileRows, 64, 4>;
    using KeyTile = PanelTile<64>;
    static constexpr bool kQueryInRegisters = true;
    static constexpr int kBarriersAt = Sizes::kBytes;
    static constexpr int kRunsAt = kBarriersAt + 2 * Sizes::kStages * 8;
    static constexpr int kBytes = kRunsAt + Sizes::kStages * 4;
    static constexpr int kCopyThreads = kWarpgroup;
    static constexpr int kLaunchThreads = Sizes::kThreads + kCopyThreads;
    // Of a thread: at the start, and then of those who copy and those who compute.
    static constexpr int kRegisters = 65536 / kLaunchThreads / 8 * 8;
    static constexpr int kCopyRegisters = 40;
    static constexpr int kComputeRegisters = 232;
    static_assert(kCopyThreads * kCopyRegisters + Sizes::kThreads * kComputeRegisters <=
                  kLaunchThreads * kRegisters);
    static_assert(kBarriersAt % 8 == 0 && kBytes <= 227 * 1024);
    static_assert(WarpgroupShape::kQueryElements * 2 % 1024 == 0);
    static_assert(WarpgroupShape::kKeyElements * 2 % 1024 == 0);

    static __device__ __forceinline__ int copier() { return thread() - Sizes::kThreads; }
};

// A call, and its pools for copies of boxes.
struct WarpgroupCall {
    AttentionCall call;
    BoxMap keys, values;
    bool has_boxes;
};

template <typename Shape>
WarpgroupCall with_boxes(const AttentionCall& call) {
    WarpgroupCall boxed{.call = call, .keys = {}, .values = {}, .has_boxes = false};
    const auto map = [&](BoxMap& boxes, const HeadRows& pool) {
        return map_boxes(boxes, pool, call.n_kv_heads, call.n_slots, call.head_dim,
                         static_cast<Dtype>(call.dtype), Shape::kKeys);
    };
    boxed.has_boxes = map(boxed.keys, call.keys) && map(boxed.values, call.values);
    return boxed;
}

// Numbers of the barriers that are not in shared memory.
enum NamedBarrier : int { kQueryThere = 1, kSlotsThere = 2, kFirstTurn = 3, kSecondTurn = 4 };

// Who may use a stage: those who copy fill it when it is free, those who compute free it.
template <typename Shape>
class Stages {
  public:
    __device__ explicit Stages(unsigned char* memory)
        : filled_(reinterpret_cast<StageBarrier*>(memory + Shape::kBarriersAt)),
          freed_(filled_ + Shape::kStages) {}

    // By one thread, before all threads meet.
    __device__ void start(int n_computing_warps) {
        for (int stage = 0; stage < Shape::kStages; ++stage) {
            start_barrier(filled_[stage], Shape::kCopyThreads);
            start_barrier(freed_[stage], n_computing_warps);
        }
        // The copying unit counts bytes at them and sees shared memory by way of its own.
        fence_proxy_async();
    }

    __device__ void wait_until_free(int block) {
        if (block >= Shape::kStages) wait_for_phase(freed_[stage(block)], round(block) - 1);
    }
    // This thread's copies have arrived.
    __device__ void fill(int block) {
        fence_proxy_async();
        arrive_at(filled_[stage(block)]);
    }
    // The barrier of copies that this thread is about to begin: it waits for these bytes, too.
    __device__ StageBarrier& expect(int block, int n_bytes) {
        StageBarrier& barrier = filled_[stage(block)];
        expect_bytes(barrier, n_bytes);
        return barrier;
    }
    __device__ void wait_until_filled(int block) {
        wait_for_phase(filled_[stage(block)], round(block));
    }
    // This warp's products have read it.
    __device__ void free(int block) {
        __syncwarp();
        if (lane() == 0) arrive_at(freed_[stage(block)]);
    }

  private:
    static __device__ int stage(int block) { return block % Shape::kStages; }
    static __device__ int round(int block) { return block / Shape::kStages; }

    StageBarrier* filled_;
    StageBarrier* freed_;
};

// Whose turn it is to begin products: the first warpgroup's, the second one's, and so on. Alone, a
// warpgroup waits for nobody.
class Turns {
  public:
    __device__ Turns(bool two, int n_steps)
        : two_(two), second_(thread() >= kWarpgroup), n_steps_(n_steps) {}

    __device__ void wait(int step) const {
        meet_if(two_ && (second_ || step > 0), second_ ? kSecondTurn : kFirstTurn, 2 * kWarpgroup);
    }
    // The second one's last products are followed by none that would have to wait.
    __device__ void pass(int step) const {
        announce_if(two_ && (!second_ || step + 1 < n_steps_), second_ ? kFirstTurn : kSecondTurn,
                    2 * kWarpgroup);
    }

  private:
    bool two_, second_;
    int n_steps_;
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

// What a warpgroup computes for its 64 rows.
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

    // The first block of keys, from `position` on. `begun` is called once its products have begun.
    template <typename Begun>
    __device__ void first(const std::uint16_t* keys, int position, const Begun& begun) {
        pin(scores_);
        wgmma_fence();
        begin_scores<Element, Shape>(query_, keys, scores_);
        begun();
        wgmma_wait<0>();
        pin(scores_);
        to_hidden_logits(position);
        softmax_.weigh(scores_);
        pack_weights<Element, Shape>(scores_, weights_);
    }

    // Another block of keys, and the values of the block before: while their sum is made, scores
    // become weights. `read` is called once the values have been read.
    template <typename Begun, typename Read>
    __device__ void next(const std::uint16_t* keys, const std::uint16_t* values, int position,
                         const Begun& begun, const Read& read) {
        pin(scores_);
        pin(weights_);
        pin(softmax_.out);
        wgmma_fence();
        begin_scores<Element, Shape>(query_, keys, scores_);
        begin_values<Element, Shape>(weights_, values, softmax_);
        begun();
        wgmma_wait<1>();
        pin(scores_);
        to_hidden_logits(position);
        float factors[2];
        softmax_.weigh(scores_, [&](int row, float factor) { factors[row] = factor; });
        settle(softmax_.sum[0] + softmax_.sum[1]);
        wgmma_wait<0>();
        pin(softmax_.out);
        read();
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

// Copies blocks of keys and their values to shared memory, by all threads of this warpgroup.
template <typename Shape>
class BlockCopies {
  public:
    __device__ BlockCopies(const WarpgroupCall& call, const TileWork& work)
        : call_(call),
          memory_(shared_memory()),
          runs_(reinterpret_cast<std::int32_t*>(shared_memory() + Shape::kRunsAt)),
          blocks_(call.call, work, memory_),
          kv_head_(work.kv_head) {}

    // Notes where a block's keys lie.
    __device__ void find(int block) {
        blocks_.find(block);
        if (Shape::copier() == 0) run(block) = call_.has_boxes ? blocks_.run(block) : -1;
        meet(kSlotsThere, Shape::kCopyThreads);
    }

    // Begins to copy it: in boxes where it lies in one piece, as long contexts mostly do.
    __device__ void begin(int block, Stages<Shape>& stages) {
        const std::int32_t slot = run(block);
        if (slot < 0) {
            blocks_.copy(block);
        } else if (Shape::copier() == 0) {
            StageBarrier& filled = stages.expect(block, 2 * 2 * Shape::kKeyElements);
            copy_panels(memory_.keys(block), call_.keys, slot, filled);
            copy_panels(memory_.values(block), call_.values, slot, filled);
        }
        cp_async_commit();
    }

  private:
    __device__ std::int32_t& run(int block) { return runs_[block % Shape::kStages]; }

    __device__ void copy_panels(std::uint16_t* tile, const BoxMap& map, std::int32_t slot,
                                StageBarrier& filled) {
        constexpr int kColumns = Shape::KeyTile::kColumns;
        ICM_FAST_UNROLL
        for (int column = 0; column < Shape::kHeadDim; column += kColumns) {
            copy_box(tile + column * Shape::kKeys, map, column, slot, kv_head_, filled);
        }
    }

    const WarpgroupCall& call_;
    TileMemory<Shape> memory_;
    std::int32_t* runs_;  // of each stage: see KeyBlocks::run
    KeyBlocks<Shape> blocks_;
    int kv_head_;
};

// What those who copy do for a tile: one block of keys after the other, as soon as a stage is free.
// While one is under way, the one before is waited for and handed over.
template <typename Shape>
__device__ __forceinline__ void fill_stages(const WarpgroupCall& call, const TileWork& work,
                                            Stages<Shape>& stages, int n_blocks) {
    BlockCopies<Shape> copies(call, work);
    copies.find(0);
    for (int block = 0; block < n_blocks; ++block) {
        stages.wait_until_free(block);
        copies.begin(block, stages);
        // First, since it is waited for; slots may take several reads, one after the other.
        if (block > 0) {
            cp_async_wait<1>();
            stages.fill(block - 1);
        }
        copies.find(block + 1);
    }
    cp_async_wait<0>();
    stages.fill(n_blocks - 1);
}

// What the two others do: each attends for its half of the rows.
template <typename Element, bool kSoftcap, typename Shape>
__device__ __forceinline__ void attend_rows(const AttentionCall& call, const TileWork& work,
                                            Stages<Shape>& stages, int n_blocks, bool two) {
    const TileMemory<Shape> memory(shared_memory());
    copy_query<Shape>(call, work, memory.query);
    cp_async_wait_all();
    meet(kQueryThere, Shape::kThreads);
    // The second half of a short tile has nothing else to do.
    if (!two && thread() >= kWarpgroup) return;

    WarpgroupRows<Element, kSoftcap, Shape> rows(call, work, memory.query);
    const Turns turns(two, n_blocks);
    stages.wait_until_filled(0);
    turns.wait(0);
    rows.first(memory.keys(0), work.block_position<Shape>(0), [&] { turns.pass(0); });
    for (int block = 1; block < n_blocks; ++block) {
        stages.wait_until_filled(block);
        turns.wait(block);
        rows.next(
            memory.keys(block), memory.values(block - 1), work.block_position<Shape>(block),
            [&] { turns.pass(block); }, [&] { stages.free(block - 1); });
    }
    finish<Element>(call, work, rows.last(memory.values(n_blocks - 1)), memory.query);
}

// Attends for one tile and key-value head.
template <typename Element, int kHeadDim, bool kSoftcap>
__global__ void __launch_bounds__(WarpgroupShape<kHeadDim>::kLaunchThreads, 1)
    attend_warpgroups(const ICM_FAST_GRID_CONSTANT WarpgroupCall boxed) {
    using Shape = WarpgroupShape<kHeadDim>;
    const AttentionCall& call = boxed.call;
    const TileWork work = tile_work(call, Shape::kRows);
    // Where a window or a split leaves no key at all, there is a block of hidden ones.
    const int n_blocks = max(work.block_count<Shape>(), 1);
    const bool two = work.has(Shape::kRows / 2);
    Stages<Shape> stages(shared_memory());
    if (thread() == 0) stages.start((two ? 2 : 1) * kWarpgroup / kLanes);
    __syncthreads();
    if (thread() >= Shape::kThreads) {
        give_up_registers<Shape::kCopyRegisters>();
        fill_stages<Shape>(boxed, work, stages, n_blocks);
    } else {
        take_registers<Shape::kComputeRegisters>();
        attend_rows<Element, kSoftcap, Shape>(call, work, stages, n_blocks, two);
    }
}

}  // namespace icm_fast::cuda
