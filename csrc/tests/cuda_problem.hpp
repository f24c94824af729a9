// Attention of random segments on the emulated device, between guard zones of NaN.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/tree_attention.hpp"
#include "tests/attention_problem.hpp"
#include "tests/inputs.hpp"

namespace icm_fast::tests {

struct CudaShape {
    std::int64_t head_dim = 64;
    std::int64_t group = 1;
    cuda::Dtype dtype = cuda::Dtype::kBfloat16;
    cuda::Products products = cuda::Products::kMma;
};

class CudaProblem {
  public:
    static constexpr std::int64_t kKvHeads = 2;

    // Slots that no range holds are NaN, and so are some rows before and behind each tensor.
    CudaProblem(const std::vector<SegmentSizes>& sizes, const CudaShape& shape);

    [[nodiscard]] std::int64_t n_heads() const { return shape_.group * kKvHeads; }
    [[nodiscard]] const Layout& layout() const { return layout_; }
    // [token][head][head_dim]. Throws unless the kernels write the whole output and nothing else.
    Floats run(const cpu::AttentionOptions& options, std::int32_t keys_per_split = 0);
    // The status of a launch whose arguments `change` has spoilt.
    std::int32_t status_of(void (*change)(cuda::AttentionCall&));
    // Whether its launch copies boxes.
    bool copies_boxes();
    // Holds every output against `plain_attention`; the largest difference, relative to the
    // largest output.
    double check(const cpu::AttentionOptions& options, std::int32_t keys_per_split = 0);
    // Overwrites a slot's key and value.
    void write(std::int64_t slot, float key, float value);

  private:
    using Halves = std::vector<std::uint16_t>;

    void add_segments();
    [[nodiscard]] Halves stored(const Floats& values) const;
    [[nodiscard]] Halves guarded(const Halves& values) const;
    [[nodiscard]] cuda::HeadRows rows(Halves& values, std::int64_t heads) const;
    cuda::AttentionCall make_call(const cpu::AttentionOptions& options,
                                  std::int32_t keys_per_split);
    [[nodiscard]] Floats output() const;

    CudaShape shape_;
    Layout layout_;
    Floats query_, keys_, values_;  // as the dtype rounds them
    std::vector<cuda::Segment> segments_;
    std::vector<cuda::Range> ranges_;
    // What the device has.
    Halves device_query_, device_keys_, device_values_, device_out_;
    std::vector<cuda::Tile> tiles_;
    std::vector<cuda::Merge> merges_;
    Floats partial_out_, partial_lse_;
};

}  // namespace icm_fast::tests
