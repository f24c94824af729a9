// The kernels of tree attention. Include after the device's instructions.
//
// A block of threads has one tile: 64 query rows of a segment that share a key-value head. It walks
// the keys that these rows see in blocks, while the next block is copied to shared memory.
#pragma once

#include <cstdint>

#include "cuda/tile_memory.cuh"
#include "cuda/tree_attention.hpp"
#include "cuda/warp_attention.cuh"

namespace icm_fast::cuda {

// What a block of threads works on.
struct TileWork {
    Tile tile;
    Segment segment;
    int kv_head;
    int group;
    int n_rows;     // of the segment
    int key_begin;  // positions of the keys that some row of the tile sees
    int key_end;

    __device__ int position(int row) const { return segment.start + (tile.row + row) / group; }
    __device__ int head(int row) const { return kv_head * group + (tile.row + row) % group; }
    __device__ bool has(int row) const { return tile.row + row < n_rows; }

    // Blocks of keys that it sees, and the position of a block's first key.
    template <typename Shape>
    __device__ int block_count() const {
        return (max(key_end - key_begin, 0) + Shape::kKeys - 1) / Shape::kKeys;
    }
    template <typename Shape>
    __device__ int block_position(int block) const {
        return key_begin + block * Shape::kKeys;
    }
};

// `rows`: of a tile, at the most.
__device__ __forceinline__ TileWork tile_work(const AttentionCall& call, int rows) {
    TileWork work;
    work.tile = call.tiles[blockIdx.x];
    work.segment = call.segments[work.tile.segment];
    work.kv_head = static_cast<int>(blockIdx.y);
    work.group = call.group;
    work.n_rows = work.segment.n_tokens * call.group;
    work.key_begin = work.tile.key_begin;
    const int last_row = min(rows, work.n_rows - work.tile.row) - 1;
    work.key_end = min(work.tile.key_end, work.position(last_row) + 1);
    if (call.window > 0) work.key_begin = max(work.key_begin, work.position(0) - call.window + 1);
    return work;
}

__device__ __forceinline__ const std::uint16_t* first_row(const HeadRows& rows, int head, int row) {
    return static_cast<const std::uint16_t*>(rows.data) + head * rows.head_stride +
           row * rows.row_stride;
}

// The keys of a tile, block by block.
template <typename Shape>
class KeyBlocks {
  public:
    __device__ KeyBlocks(const AttentionCall& call, const TileWork& work,
                         const TileMemory<Shape>& memory)
        : memory_(memory),
          keys_(first_chunk(call.keys, work)),
          values_(first_chunk(call.values, work)),
          key_bytes_(static_cast<std::uint32_t>(2 * call.keys.row_stride)),
          value_bytes_(static_cast<std::uint32_t>(2 * call.values.row_stride)),
          finder_(call.ranges, work.segment),
          work_(work) {}

    // Notes the slots of a block's keys; a barrier of those who copy has to follow.
    __device__ void find(int block) {
        const int key = Shape::copier();
        if (key >= Shape::kKeys) return;
        const int position = work_.template block_position<Shape>(block) + key;
        memory_.slots_of(block)[key] = position < work_.key_end ? finder_.find(position) : -1;
    }

    // The slot of a block's first key if the others lie behind it one by one, else -1. For the
    // thread that found this slot, and until it finds another one.
    __device__ std::int32_t run(int block) const {
        const int end = work_.template block_position<Shape>(block) + Shape::kKeys;
        const bool one = end <= work_.key_end && end <= finder_.range_end();
        return one ? memory_.slots_of(block)[0] : -1;
    }

    // Begins to copy a block whose slots were found before the last barrier: zeros where there is
    // no key, since a weight of zero would not make up for what is not a number.
    __device__ void copy(int block) const {
        constexpr int kStep = Shape::kCopyThreads / kChunks;
        const std::int32_t* slots = memory_.slots_of(block);
        ICM_FAST_UNROLL
        for (int i = 0; i < Shape::kKeys; i += kStep) {
            const int row = i + Shape::copier() / kChunks;
            const std::int32_t slot = slots[row];
            // The address has to be one of the device's, even if nothing is read.
            const auto from = static_cast<std::uint64_t>(static_cast<std::uint32_t>(max(slot, 0)));
            const int to = Shape::KeyTile::at(row, Shape::copier() % kChunks);
            cp_async_16(memory_.keys(block) + to, keys_ + from * key_bytes_, slot >= 0);
            cp_async_16(memory_.values(block) + to, values_ + from * value_bytes_, slot >= 0);
        }
    }

  private:
    // 16 bytes each; a thread copies the same one of all its rows.
    static constexpr int kChunks = Shape::kHeadDim / kChunk;
    static_assert(Shape::kCopyThreads % kChunks == 0);

    static __device__ const unsigned char* first_chunk(const HeadRows& pool, const TileWork& work) {
        return reinterpret_cast<const unsigned char*>(first_row(pool, work.kv_head, 0) +
                                                      Shape::copier() % kChunks * kChunk);
    }

    TileMemory<Shape> memory_;
    const unsigned char* keys_;
    const unsigned char* values_;
    std::uint32_t key_bytes_, value_bytes_;  // from slot to slot
    SlotFinder finder_;
    const TileWork& work_;
};

// Begins to copy the query rows of a tile.
template <typename Shape>
__device__ __forceinline__ void copy_query(const AttentionCall& call, const TileWork& work,
                                           std::uint16_t* tile) {
    const int head = work.kv_head * work.group;
    copy_query_rows<Shape>(
        tile, QuerySource{first_row(call.query, head, work.segment.row), call.query.head_stride,
                          call.query.row_stride, work.tile.row, work.n_rows, work.group});
}

// Row `half` of a lane's two, as a row of the tile.
__device__ __forceinline__ int lane_row(int half) { return warp() * 16 + half * 8 + lane() / 4; }

__device__ __forceinline__ SeenKeys seen_keys(const TileWork& work, int window) {
    SeenKeys seen;
    ICM_FAST_UNROLL
    for (int half = 0; half < 2; ++half) {
        const int position = work.position(lane_row(half));
        seen.first[half] = window > 0 ? position - window + 1 : 0;
        seen.end[half] = min(position + 1, work.key_end);
    }
    return seen;
}

// Whether every row of the tile sees every key of a block from `position` on.
template <typename Shape>
__device__ __forceinline__ bool all_seen(const TileWork& work, int position, int window) {
    const int end = position + Shape::kKeys;
    const bool reaches_back = window <= 0 || position > work.position(Shape::kRows - 1) - window;
    return end <= work.key_end && end <= work.position(0) + 1 && reaches_back;
}

// The output of a whole tile. It goes through the query tile, of which each warp uses its own rows,
// so that 16 bytes are written at once.
template <typename Element, typename Shape>
__device__ __forceinline__ void write_rows(const AttentionCall& call, const TileWork& work,
                                           const SoftmaxRows<Shape>& rows, std::uint16_t* tile) {
    constexpr int kDim = Shape::kHeadDim;
    __syncwarp();  // the other lanes have read their query rows
    ICM_FAST_UNROLL
    for (int half = 0; half < 2; ++half) {
        ICM_FAST_UNROLL
        for (int n = 0; n < kDim / 8; ++n) {
            const int at = chunk_at<kDim>(lane_row(half), n) + lane() % 4 * 2;
            *reinterpret_cast<std::uint32_t*>(tile + at) =
                pack<Element>(rows.out[n][2 * half], rows.out[n][2 * half + 1]);
        }
    }
    __syncwarp();
    constexpr int kChunks = kDim / kChunk;
    for (int i = lane(); i < 16 * kChunks; i += kLanes) {
        const int row = warp() * 16 + i / kChunks;
        const int chunk = i % kChunks;
        if (!work.has(row)) continue;
        const int token = work.segment.row + work.position(row) - work.segment.start;
        std::uint16_t* out = static_cast<std::uint16_t*>(call.out.data) +
                             work.head(row) * call.out.head_stride + token * call.out.row_stride;
        *reinterpret_cast<uint4*>(out + chunk * kChunk) =
            *reinterpret_cast<const uint4*>(tile + chunk_at<kDim>(row, chunk));
    }
}

// A part of the output, normalised, with the logarithm of its weights' sum.
template <typename Shape>
__device__ __forceinline__ void write_partial(const AttentionCall& call, const TileWork& work,
                                              const SoftmaxRows<Shape>& rows,
                                              const float (&log_sums)[2]) {
    const std::int64_t first =
        (static_cast<std::int64_t>(work.tile.partial) * call.n_kv_heads + work.kv_head) *
        Shape::kRows;
    ICM_FAST_UNROLL
    for (int half = 0; half < 2; ++half) {
        const std::int64_t row = first + lane_row(half);
        if (lane() % 4 == 0) call.partial_lse[row] = log_sums[half];
        float* out = call.partial_out + row * Shape::kHeadDim + lane() % 4 * 2;
        ICM_FAST_UNROLL
        for (int n = 0; n < Shape::kHeadDim / 8; ++n) {
            *reinterpret_cast<float2*>(out + n * 8) =
                float2{rows.out[n][2 * half], rows.out[n][2 * half + 1]};
        }
    }
}

template <typename Element, typename Shape>
__device__ __forceinline__ void finish(const AttentionCall& call, const TileWork& work,
                                       SoftmaxRows<Shape>& rows, std::uint16_t* tile) {
    const bool whole = work.tile.partial < 0;
    float log_sums[2];
    ICM_FAST_UNROLL
    for (int half = 0; half < 2; ++half) {
        // The sink of a split tile is added once, when its parts are merged.
        if (whole && call.sinks != nullptr) {
            rows.add_sink(half, call.sinks[work.head(lane_row(half))] * kLog2E);
        }
        log_sums[half] = rows.normalise(half);
    }
    if (whole) {
        write_rows<Element>(call, work, rows, tile);
    } else {
        write_partial(call, work, rows, log_sums);
    }
}

// Attends for one tile and key-value head.
template <typename Element, int kHeadDim, bool kSoftcap>
__global__ void __launch_bounds__(kThreads) attend_tile(const AttentionCall call) {
    using Shape = TileShape<kHeadDim>;
    const TileMemory<Shape> memory(shared_memory());
    const TileWork work = tile_work(call, Shape::kRows);
    KeyBlocks<Shape> blocks(call, work, memory);
    const int n_blocks = work.block_count<Shape>();

    copy_query<Shape>(call, work, memory.query);
    blocks.find(0);
    blocks.find(1);
    __syncthreads();
    blocks.copy(0);
    cp_async_wait_all();
    __syncthreads();

    const QueryRows<Shape> query(memory.query);
    const LogitScale scale = logit_scale<kSoftcap>(call.scaling, call.softcap);
    const SeenKeys seen = seen_keys(work, call.window);
    SoftmaxRows<Shape> rows;
    for (int block = 0; block < n_blocks; ++block) {
        // One block ahead, into the memory that the last barrier freed.
        if (block + 1 < n_blocks) blocks.copy(block + 1);
        blocks.find(block + 2);
        float scores[Shape::kKeys / 8][4];
        multiply_keys<Element, Shape>(query, memory.keys(block), scores);
        to_logits<kSoftcap, Shape>(scale, scores);
        const int position = work.block_position<Shape>(block);
        if (!all_seen<Shape>(work, position, call.window)) hide<Shape>(seen, position, scores);
        rows.weigh(scores);
        rows.template add_values<Element>(scores, memory.values(block));
        cp_async_wait_all();
        __syncthreads();
    }
    finish<Element>(call, work, rows, memory.query);
}

// The weight of each part is its share in the sum of all weights.
struct MergedSum {
    float max;
    float total;

    __device__ MergedSum(const float* log_sums, std::int64_t stride, int n, float sink)
        : max(sink), total(0.0F) {
        for (int k = 0; k < n; ++k) max = fmaxf(max, log_sums[k * stride]);
        for (int k = 0; k < n; ++k) total += power_of_two(log_sums[k * stride] - max);
        if (sink > kHidden) total += power_of_two(sink - max);
    }
};

// Merges the parts of one tile's rows; a thread has two columns of a row at a time.
template <typename Element, int kHeadDim>
__global__ void __launch_bounds__(kThreads) merge_partials(const AttentionCall call) {
    const Merge merge = call.merges[blockIdx.x];
    const Segment segment = call.segments[merge.segment];
    const int kv_head = static_cast<int>(blockIdx.y);
    const int n_rows = min(call.tile_rows, segment.n_tokens * call.group - merge.row);
    const std::int64_t stride = static_cast<std::int64_t>(call.n_kv_heads) * call.tile_rows;
    const std::int64_t first = merge.first_partial * stride + kv_head * call.tile_rows;
    for (int i = thread(); i < n_rows * (kHeadDim / 2); i += kThreads) {
        const int row = i / (kHeadDim / 2);
        const int column = i % (kHeadDim / 2) * 2;
        const int head = kv_head * call.group + (merge.row + row) % call.group;
        const int token = segment.row + (merge.row + row) / call.group;
        const float sink = call.sinks == nullptr ? kHidden : call.sinks[head] * kLog2E;
        const float* log_sums = call.partial_lse + first + row;
        const float* parts = call.partial_out + (first + row) * kHeadDim + column;
        const MergedSum sum(log_sums, stride, merge.n_partials, sink);
        float low = 0.0F;
        float high = 0.0F;
        for (int k = 0; k < merge.n_partials; ++k) {
            const float weight = power_of_two(log_sums[k * stride] - sum.max);
            const float2 part = *reinterpret_cast<const float2*>(parts + k * stride * kHeadDim);
            low += weight * part.x;
            high += weight * part.y;
        }
        std::uint16_t* out = static_cast<std::uint16_t*>(call.out.data) +
                             head * call.out.head_stride + token * call.out.row_stride;
        *reinterpret_cast<std::uint32_t*>(out + column) =
            pack<Element>(low / sum.total, high / sum.total);
    }
}

}  // namespace icm_fast::cuda
