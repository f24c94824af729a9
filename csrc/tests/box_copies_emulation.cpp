#include "tests/box_copies_emulation.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "tests/cuda_block.hpp"

namespace icm_fast::cuda {
namespace {

constexpr std::size_t kRowBytes = 128;  // of a box: 64 columns
constexpr std::size_t kChunkBytes = 16;
constexpr std::size_t kPatternBytes = 8 * kRowBytes;

bool& maps_there() {
    static bool there = true;
    return there;
}

// The figure of 128-byte swizzling in the PTX manual: a row's chunks are exchanged by its number.
void bring(const Box& box) {
    for (std::size_t row = 0; row < box.n_rows; ++row) {
        for (std::size_t chunk = 0; chunk < kRowBytes / kChunkBytes; ++chunk) {
            std::memcpy(box.target + row * kRowBytes + (chunk ^ row % 8) * kChunkBytes,
                        box.source + row * box.row_bytes + chunk * kChunkBytes, kChunkBytes);
        }
    }
}

}  // namespace

void set_box_maps(bool there) { maps_there() = there; }

bool map_boxes(BoxMap& map, const HeadRows& pool, std::int32_t n_heads, std::int32_t n_slots,
               std::int32_t head_dim, Dtype /*dtype*/, std::int32_t n_rows) {
    map = {pool, n_heads, n_slots, head_dim, n_rows};
    return maps_there();
}

void expect_bytes(StageBarrier& barrier, int n_bytes) {
    boxes_at(barrier).n_expected += static_cast<std::size_t>(n_bytes);
}

void copy_box(void* target, const BoxMap& map, int column, int slot, int head,
              StageBarrier& barrier) {
    if (column < 0 || column % 64 != 0 || column + 64 > map.head_dim || slot < 0 ||
        slot + map.n_rows > map.n_slots || head < 0 || head >= map.n_heads) {
        emulation_fails("a box outside its pool");
    }
    const std::size_t n_bytes = static_cast<std::size_t>(map.n_rows) * kRowBytes;
    auto* begin = static_cast<unsigned char*>(target);
    const std::ptrdiff_t at = begin - block().shared();
    if (at < 0 || static_cast<std::size_t>(at) + n_bytes > block().shared_bytes()) {
        emulation_fails("a box outside shared memory");
    }
    if (static_cast<std::size_t>(at) % kPatternBytes != 0) {
        emulation_fails("a box at an address that is no multiple of 1,024");
    }
    PendingBoxes& pending = boxes_at(barrier);
    pending.n_begun += n_bytes;
    if (pending.n_begun > pending.n_expected) emulation_fails("a box that nobody expects");
    std::memset(target, 0xFF, n_bytes);
    const auto* source = static_cast<const unsigned char*>(map.pool.data) +
                         2 * (head * map.pool.head_stride + slot * map.pool.row_stride + column);
    pending.boxes.push_back({begin, source, static_cast<std::size_t>(map.n_rows),
                             static_cast<std::size_t>(2 * map.pool.row_stride)});
    block().counts().copied_bytes += static_cast<std::int64_t>(n_bytes);
    ++block().counts().boxes;
}

void bring_boxes(PendingBoxes& pending) {
    if (pending.n_begun < pending.n_expected) emulation_fails("a box is expected and never begun");
    std::ranges::for_each(pending.boxes, bring);
    pending = {};
}

}  // namespace icm_fast::cuda
