// A linear layer without a bias, in the model's format or in 8-bit integers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cpu/aligned_buffer.hpp"
#include "cpu/int8_ops.hpp"
#include "cpu/ops.hpp"
#include "cpu/packed_matrix.hpp"

namespace icm_fast::cpu {

// Rows of inputs: words of the format, or bytes with their scales.
struct LinearInput {
    const Word* words;
    std::int64_t stride;  // words between rows
    std::int64_t n_rows;
    const float* scales;  // [n_rows][groups] for bytes, else null
    std::int64_t scale_stride;
};

struct LinearOutput {
    float* values;
    std::int64_t stride;  // floats between rows
    bool accumulate;
};

class Linear {
  public:
    // `rows` are the outputs as for PackedMatrix. `int8` is null for weights in the format of
    // `ops`.
    Linear(const Ops& ops, const Int8Ops* int8, std::span<const float* const> rows,
           std::int64_t n_inputs, std::int64_t padded_inputs);

    [[nodiscard]] std::int64_t n_panels() const { return n_panels_; }
    [[nodiscard]] std::int64_t n_bytes() const;

    // Some panels of outputs from some inputs, which begin at a multiple of kInt8Group.
    void multiply(const LinearInput& input, std::int64_t panel, std::int64_t n_panels,
                  std::int64_t first, std::int64_t n_values, const LinearOutput& output) const;
    // All outputs from all inputs.
    void multiply(const LinearInput& input, const LinearOutput& output) const {
        multiply(input, 0, n_panels_, 0, padded_inputs_, output);
    }

  private:
    void quantize(std::span<const float* const> rows, std::int64_t n_inputs);

    const Ops* ops_;
    const Int8Ops* int8_;
    std::int64_t n_panels_;
    std::int64_t padded_inputs_;
    PackedMatrix words_;
    // Only for 8-bit integers.
    AlignedBuffer<Word> bytes_;          // [panel][word][kPanelColumns]
    std::vector<float> scales_;          // [group][padded outputs]
    std::vector<std::int32_t> offsets_;  // as scales_
};

}  // namespace icm_fast::cpu
