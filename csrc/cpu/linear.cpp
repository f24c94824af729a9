#include "cpu/linear.hpp"

#include <algorithm>
#include <cmath>

namespace icm_fast::cpu {

Linear::Linear(const Ops& ops, const Int8Ops* int8, std::span<const float* const> rows,
               std::int64_t n_inputs, std::int64_t padded_inputs)
    : ops_(&ops),
      int8_(int8),
      n_panels_((static_cast<std::int64_t>(rows.size()) + kPanelColumns - 1) / kPanelColumns),
      padded_inputs_(padded_inputs) {
    if (int8 == nullptr) {
        words_ = PackedMatrix(ops, rows, n_inputs, padded_inputs);
    } else {
        quantize(rows, n_inputs);
    }
}

void Linear::quantize(std::span<const float* const> rows, std::int64_t n_inputs) {
    const std::int64_t n_words = int8_words(padded_inputs_);
    const std::int64_t n_outputs = n_panels_ * kPanelColumns;
    bytes_.resize(n_words * n_outputs);
    const auto n_scales = static_cast<std::size_t>(int8_groups(padded_inputs_) * n_outputs);
    scales_.assign(n_scales, 0.0F);
    offsets_.assign(n_scales, 0);
    auto* bytes = reinterpret_cast<std::int8_t*>(bytes_.data());
    for (std::int64_t row = 0; row < static_cast<std::int64_t>(rows.size()); ++row) {
        const float* from = rows[static_cast<std::size_t>(row)];
        if (from == nullptr) continue;
        for (std::int64_t first = 0; first < n_inputs; first += kInt8Group) {
            const std::int64_t end = std::min(first + kInt8Group, n_inputs);
            float greatest = 0.0F;
            for (std::int64_t k = first; k < end; ++k) {
                greatest = std::max(greatest, std::abs(from[k]));
            }
            const float steps = greatest > 0.0F ? 127.0F / greatest : 0.0F;
            std::int32_t sum = 0;
            for (std::int64_t k = first; k < end; ++k) {
                const auto value = static_cast<std::int8_t>(std::lround(from[k] * steps));
                const std::int64_t word = row / kPanelColumns * n_words + k / kInt8ValuesPerWord;
                bytes[(word * kPanelColumns + row % kPanelColumns) * kInt8ValuesPerWord +
                      k % kInt8ValuesPerWord] = value;
                sum += value;
            }
            const auto at = static_cast<std::size_t>(first / kInt8Group * n_outputs + row);
            scales_[at] = greatest / 127.0F;
            offsets_[at] = -128 * sum;
        }
    }
}

std::int64_t Linear::n_bytes() const {
    const std::int64_t words = words_.n_panels() * words_.panel_words() + bytes_.size();
    return words * static_cast<std::int64_t>(sizeof(Word)) +
           static_cast<std::int64_t>(scales_.size() * sizeof(float) +
                                     offsets_.size() * sizeof(std::int32_t));
}

void Linear::multiply(const LinearInput& input, std::int64_t panel, std::int64_t n_panels,
                      std::int64_t first, std::int64_t n_values, const LinearOutput& output) const {
    if (int8_ == nullptr) {
        ops_->gemm({.a = input.words,
                    .a_stride = input.stride,
                    .n_rows = input.n_rows,
                    .b = words_.panel(panel, first / ops_->values_per_word),
                    .b_panel_words = words_.panel_words(),
                    .n_panels = n_panels,
                    .n_words = n_values / ops_->values_per_word,
                    .c = output.values,
                    .c_stride = output.stride,
                    .accumulate = output.accumulate});
        return;
    }
    const std::int64_t panel_words = int8_words(padded_inputs_) * kPanelColumns;
    const std::int64_t n_outputs = n_panels_ * kPanelColumns;
    const std::int64_t scale = first / kInt8Group * n_outputs + panel * kPanelColumns;
    int8_->gemm(
        {.a = input.words,
         .a_stride = input.stride,
         .a_scales = input.scales,
         .a_scale_stride = input.scale_stride,
         .n_rows = input.n_rows,
         .b = bytes_.data() + panel * panel_words + first / kInt8ValuesPerWord * kPanelColumns,
         .b_panel_words = panel_words,
         .b_scales = scales_.data() + scale,
         .offsets = offsets_.data() + scale,
         .b_scale_stride = n_outputs,
         .n_panels = n_panels,
         .n_words = int8_words(n_values),
         .c = output.values,
         .c_stride = output.stride,
         .accumulate = output.accumulate});
}

}  // namespace icm_fast::cpu
