// The part of icm_fast_cuda that is compiled for sm_90a alone.
#ifdef __CUDACC__
#include "cuda/box_copies.cuh"
#include "cuda/device.cuh"
#include "cuda/warp_roles.cuh"
#include "cuda/wgmma.cuh"
#else
#include "tests/box_copies_emulation.hpp"
#include "tests/cuda_emulation.hpp"
#include "tests/warp_roles_emulation.hpp"
#include "tests/wgmma_emulation.hpp"
#endif

#include "cuda/warpgroup_attention.cuh"
#include "cuda/warpgroup_attention.hpp"

namespace icm_fast::cuda {
namespace {

template <typename Element, int kHeadDim, bool kSoftcap>
std::int32_t launch_warpgroups(const AttentionCall& call, void* stream) {
    using Shape = WarpgroupShape<kHeadDim>;
    const Grid tiles{call.n_tiles, call.n_kv_heads};
    return launch(attend_warpgroups<Element, kHeadDim, kSoftcap>, tiles, Shape::kLaunchThreads,
                  Shape::kBytes, stream, with_boxes<Shape>(call));
}

template <typename Element, int kHeadDim>
std::int32_t pick_softcap(const AttentionCall& call, void* stream) {
    return call.softcap > 0.0F ? launch_warpgroups<Element, kHeadDim, true>(call, stream)
                               : launch_warpgroups<Element, kHeadDim, false>(call, stream);
}

template <typename Element>
std::int32_t pick_head_dim(const AttentionCall& call, void* stream) {
    return call.head_dim == 64 ? pick_softcap<Element, 64>(call, stream)
                               : pick_softcap<Element, 128>(call, stream);
}

}  // namespace

bool copies_boxes(const AttentionCall& call) {
    return call.head_dim == 64 ? with_boxes<WarpgroupShape<64>>(call).has_boxes
                               : with_boxes<WarpgroupShape<128>>(call).has_boxes;
}

std::int32_t attend_by_warpgroups(const AttentionCall& call, void* stream) {
    return static_cast<Dtype>(call.dtype) == Dtype::kBfloat16
               ? pick_head_dim<Bfloat16>(call, stream)
               : pick_head_dim<Float16>(call, stream);
}

}  // namespace icm_fast::cuda
