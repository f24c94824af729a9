// Tree attention on a CUDA device: what the shared library icm_fast_cuda offers. Plain data and C
// functions, so that callers need neither CUDA's headers nor torch's.
#pragma once

#include <cstdint>

namespace icm_fast::cuda {

// A change of any struct or function below raises this number; callers refuse another one.
inline constexpr std::int32_t kAbiVersion = 4;
// Query rows of a tile, by the instruction that multiplies. A row is a (token, head of the group)
// pair, token by token.
inline constexpr std::int32_t kTileRows = 64;
inline constexpr std::int32_t kWarpgroupTileRows = 128;

enum class Dtype : std::int32_t { kBfloat16 = 0, kFloat16 = 1 };

// Instructions of the tensor cores: of one warp, on every device; of four, on compute
// capability 9.0 alone, where they are the faster ones.
enum class Products : std::int32_t { kMma = 0, kWgmma = 1 };

// Codes of our own, apart from CUDA's, which are positive.
// NOLINTNEXTLINE(cppcoreguidelines-use-enum-class): they share one integer with CUDA's codes.
enum Status : std::int32_t {
    kOk = 0,
    kUnsupportedHeadDim = -1,
    kUnsupportedDtype = -2,
    kMisaligned = -3,
    kBadSizes = -4,
    kEmulationFailed = -5,
    kWrongTileRows = -6,
    kUnsupportedProducts = -7,
};

// Rows [row, row + n_tokens) of the packed batch. Their keys are the segment's `ranges`, in context
// order; the last one is its own and holds the positions from `start` on.
struct Segment {
    std::int32_t row;
    std::int32_t n_tokens;
    std::int32_t start;  // position of the first row
    std::int32_t range_begin;
    std::int32_t range_end;
};

// The keys from `position` of the context on, up to the next range, lie at `slot` and behind it.
struct Range {
    std::int32_t position;
    std::int32_t slot;
};

// Query rows from `row` of a segment on, and the positions of keys that they attend to. Without
// `partial` (-1) the tile writes the output, else its part of a sum.
struct Tile {
    std::int32_t segment;
    std::int32_t row;
    std::int32_t key_begin;
    std::int32_t key_end;
    std::int32_t partial;
};

// Partial results of the same query rows, to be merged by their log-sum-exp.
struct Merge {
    std::int32_t segment;
    std::int32_t row;
    std::int32_t first_partial;
    std::int32_t n_partials;
};

struct TileCounts {
    std::int32_t tiles;
    std::int32_t merges;
    std::int32_t partials;
};

// [heads][tokens or slots][head_dim]; strides in elements, the innermost one is 1. Rows begin at
// multiples of 16 bytes.
struct HeadRows {
    void* data;
    std::int64_t head_stride;
    std::int64_t row_stride;
};

// One launch. All pointers are the device's; nothing is owned.
struct AttentionCall {
    HeadRows query;   // n_kv_heads * group heads
    HeadRows keys;    // of the pool
    HeadRows values;  // of the pool
    HeadRows out;     // like query
    const Segment* segments;
    const Range* ranges;
    const Tile* tiles;
    const Merge* merges;
    const float* sinks;  // [heads], or null
    float* partial_out;  // [partials][n_kv_heads][tile_rows][head_dim], or null
    float* partial_lse;  // [partials][n_kv_heads][tile_rows], or null; in powers of two
    std::int32_t n_tiles;
    std::int32_t n_merges;
    std::int32_t n_kv_heads;
    std::int32_t n_slots;  // of the pool
    std::int32_t group;    // query heads to a key-value head
    std::int32_t head_dim;
    std::int32_t dtype;
    std::int32_t products;
    std::int32_t tile_rows;  // as the tiles were planned
    std::int32_t window;     // 0: none
    float scaling;
    float softcap;  // 0: none
};

extern "C" {

std::int32_t icm_fast_cuda_abi_version();
// "cuda", or "cpu" for the emulation in tests: the kind of memory that pointers are into.
const char* icm_fast_cuda_device_type();
// What a status says, for people.
const char* icm_fast_cuda_status_text(std::int32_t status);
// Query rows that the tiles of a call must have. Where a width has no kernel with these `products`,
// the call takes the one with kMma, and so do its tiles.
std::int32_t icm_fast_cuda_tile_rows(std::int32_t products, std::int32_t head_dim);
// Whether a call copies blocks of keys in boxes (1), or row by row (0): with wgmma, where the
// driver can describe the pools. Reads `products`, `head_dim`, `dtype`, `keys`, `values` and their
// counts.
std::int32_t icm_fast_cuda_copies_boxes(const AttentionCall* call);
// Counts the tiles of a batch and, where they are not null, fills them in. `keys_per_split` 0: no
// tile is split. Needs no device.
void icm_fast_cuda_plan_tiles(const Segment* segments, std::int32_t n_segments, std::int32_t group,
                              std::int32_t tile_rows, std::int32_t keys_per_split,
                              TileCounts* counts, Tile* tiles, Merge* merges);
// Enqueues the attention on a cudaStream_t and returns a Status or a cudaError_t.
std::int32_t icm_fast_cuda_tree_attention(const AttentionCall* call, void* stream);

}  // extern "C"

}  // namespace icm_fast::cuda
