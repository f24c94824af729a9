// Tiles in shared memory and the copies that fill them. Include after the device's instructions.
#pragma once

#include <cstdint>

#include "cuda/tree_attention.hpp"

namespace icm_fast::cuda {

inline constexpr int kLanes = 32;
// Of a block with kTileRows rows.
inline constexpr int kThreads = kTileRows / 16 * kLanes;
// 16-bit numbers in the 16 bytes that one thread copies and one row of an 8 x 8 matrix takes.
inline constexpr int kChunk = 8;

__device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int lane() { return thread() % kLanes; }
__device__ __forceinline__ int warp() { return thread() / kLanes; }

// Where a chunk of a row lies in its tile. Eight rows below each other, which ldmatrix reads at
// once, would all lie in the same banks; exchanging chunks by the row's number parts them.
template <int kDim>
__device__ __forceinline__ int chunk_at(int row, int chunk) {
    return row * kDim + (chunk ^ row % 8) * kChunk;
}

// Tiles of keys that ldmatrix reads.
template <int kDim>
struct RowTile {
    static __device__ __forceinline__ int at(int row, int chunk) {
        return chunk_at<kDim>(row, chunk);
    }
};

// How a block divides shared memory: the query tile, then `kStages` pairs of keys and values, then
// the pool slots of the keys of as many stages.
template <int kDim, int kTileRowCount, int kBlockKeys, int kStageCount>
struct TileSizes {
    static constexpr int kHeadDim = kDim;
    static constexpr int kRows = kTileRowCount;
    static constexpr int kThreads = kRows / 16 * kLanes;
    static constexpr int kKeys = kBlockKeys;
    static constexpr int kStages = kStageCount;
    static constexpr int kQueryElements = kRows * kDim;
    static constexpr int kKeyElements = kKeys * kDim;
    static constexpr int kElements = kQueryElements + 2 * kStages * kKeyElements;
    static constexpr int kBytes = 2 * kElements + 4 * kStages * kKeys;

    // Threads that copy keys and values: all of them, unless a shape has some for that alone.
    static constexpr int kCopyThreads = kThreads;
    static __device__ __forceinline__ int copier() { return thread(); }
};

// Wide heads: 64 keys would take more than 100 KB, and the query more registers than there are.
template <int kDim>
struct TileShape : TileSizes<kDim, kTileRows, (kDim > 128 ? 32 : 64), 2> {
    using KeyTile = RowTile<kDim>;
    static constexpr bool kQueryInRegisters = kDim <= 128;
    // The least that a block may have on a device that runs these kernels (8.6 and 8.9).
    static_assert(TileShape::kBytes <= 99 * 1024);
};

template <typename Shape>
struct TileMemory {
    std::uint16_t* query;
    std::uint16_t* stages;
    std::int32_t* slots;

    __device__ explicit TileMemory(unsigned char* memory)
        : query(reinterpret_cast<std::uint16_t*>(memory)),
          stages(query + Shape::kQueryElements),
          slots(reinterpret_cast<std::int32_t*>(query + Shape::kElements)) {}

    __device__ std::uint16_t* keys(int block) const {
        return stages + block % Shape::kStages * 2 * Shape::kKeyElements;
    }
    __device__ std::uint16_t* values(int block) const { return keys(block) + Shape::kKeyElements; }
    __device__ std::int32_t* slots_of(int block) const {
        return slots + block % Shape::kStages * Shape::kKeys;
    }
};

// chunk_at for a lane that reads `row` in chunks that differ in even numbers known to the compiler:
// what depends on the lane is kept, and few registers hold it.
template <int kDim>
class LaneChunks {
  public:
    __device__ LaneChunks(int row, int odd) : row_(row * kDim), twist_(row % 8 ^ odd) {}

    // `row`: a multiple of 8 to add; `even`: the chunk without its last bit.
    __device__ int at(int row, int even) const {
        return row_ + (row * kDim + even / 8 * 8 * kChunk) + (twist_ ^ even % 8) * kChunk;
    }

  private:
    int row_, twist_;
};

// Query rows of a tile: (token, head of the group) pairs of the packed batch.
struct QuerySource {
    const std::uint16_t* base;  // the segment's first token, the group's first head
    std::int64_t head_stride, row_stride;
    int first, n_rows, group;

    // Null where there is none.
    __device__ const std::uint16_t* row(int r) const {
        const int at = first + r;
        if (at >= n_rows) return nullptr;
        return base + at / group * row_stride + at % group * head_stride;
    }
};

// Begins to copy them, and zeros where there is none.
template <typename Shape>
__device__ __forceinline__ void copy_query_rows(std::uint16_t* tile, const QuerySource& source) {
    constexpr int kChunks = Shape::kHeadDim / kChunk;
    ICM_FAST_UNROLL
    for (int i = 0; i < Shape::kRows * kChunks; i += Shape::kThreads) {
        const int row = (i + thread()) / kChunks;
        const int chunk = (i + thread()) % kChunks;
        const std::uint16_t* from = source.row(row);
        // The address has to be one of the device's, even if nothing is read.
        const std::uint16_t* address = from == nullptr ? source.base : from + chunk * kChunk;
        cp_async_16(tile + chunk_at<Shape::kHeadDim>(row, chunk), address, from != nullptr);
    }
}

// Pool slots of the keys at growing positions of one segment's context. Short ranges fill blocks of
// keys together, so a context of many short ones costs no more than one of few long ones.
class SlotFinder {
  public:
    __device__ SlotFinder(const Range* ranges, const Segment& segment)
        : ranges_(ranges), low_(segment.range_begin), last_(segment.range_end - 1) {}

    // `position` must not be below that of the call before.
    __device__ std::int32_t find(int position) {
        // The range is near, so the steps to it double: few reads in a list of any length.
        int step = 1;
        while (low_ + step <= last_ && ranges_[low_ + step].position <= position) {
            low_ += step;
            step *= 2;
        }
        int high = min(last_, low_ + step - 1);
        while (low_ < high) {
            const int middle = (low_ + high + 1) / 2;
            if (ranges_[middle].position <= position) {
                low_ = middle;
            } else {
                high = middle - 1;
            }
        }
        return ranges_[low_].slot + position - ranges_[low_].position;
    }

    // The first position behind the range that was found last.
    __device__ int range_end() const {
        return low_ < last_ ? ranges_[low_ + 1].position : INT32_MAX;
    }

  private:
    const Range* ranges_;
    int low_, last_;
};

}  // namespace icm_fast::cuda
