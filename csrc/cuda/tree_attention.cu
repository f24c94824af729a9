// The library icm_fast_cuda. nvcc compiles this file for devices; the native tests compile it with
// the host's compiler, where a header of theirs takes the place of the device.
#ifdef __CUDACC__
#include "cuda/device.cuh"
#else
#include "tests/cuda_emulation.hpp"
#endif

#include <algorithm>

#include "cuda/attention_tiles.hpp"
#include "cuda/dispatch.cuh"

namespace icm_fast::cuda {

extern "C" {

std::int32_t icm_fast_cuda_abi_version() { return kAbiVersion; }

const char* icm_fast_cuda_device_type() { return kDeviceType; }

const char* icm_fast_cuda_status_text(std::int32_t status) {
    switch (status) {
        case kOk:
            return "no error";
        case kUnsupportedHeadDim:
            return "head_dim must be 64, 128 or 256";
        case kUnsupportedDtype:
            return "dtype must be bfloat16 or float16";
        case kMisaligned:
            return "rows must begin at multiples of 16 bytes";
        case kBadSizes:
            return "counts of tiles, heads and groups must be positive, rows of a pool nearer than "
                   "2^31";
        case kWrongTileRows:
            return "tiles were planned with another number of rows";
        case kUnsupportedProducts:
            return "products must be mma or wgmma";
        default:
            return device_status_text(status);
    }
}

std::int32_t icm_fast_cuda_tile_rows(std::int32_t products, std::int32_t head_dim) {
    return takes_wgmma(products, head_dim) ? kWarpgroupTileRows : kTileRows;
}

std::int32_t icm_fast_cuda_copies_boxes(const AttentionCall* call) {
    return takes_wgmma(call->products, call->head_dim) && copies_boxes(*call) ? 1 : 0;
}

void icm_fast_cuda_plan_tiles(const Segment* segments, std::int32_t n_segments, std::int32_t group,
                              std::int32_t tile_rows, std::int32_t keys_per_split,
                              TileCounts* counts, Tile* tiles, Merge* merges) {
    const TilePlan plan = plan_tiles({segments, static_cast<std::size_t>(n_segments)}, group,
                                     tile_rows, keys_per_split);
    *counts = {static_cast<std::int32_t>(plan.tiles.size()),
               static_cast<std::int32_t>(plan.merges.size()), plan.n_partials};
    if (tiles != nullptr) std::copy(plan.tiles.begin(), plan.tiles.end(), tiles);
    if (merges != nullptr) std::copy(plan.merges.begin(), plan.merges.end(), merges);
}

std::int32_t icm_fast_cuda_tree_attention(const AttentionCall* call, void* stream) {
    return attend(*call, stream);
}

}  // extern "C"

}  // namespace icm_fast::cuda
