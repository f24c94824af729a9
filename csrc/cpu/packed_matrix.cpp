#include "cpu/packed_matrix.hpp"

#include <algorithm>

namespace icm_fast::cpu {

PackedMatrix::PackedMatrix(const Ops& ops, std::span<const float* const> rows,
                           std::int64_t n_inputs, std::int64_t padded_inputs)
    : n_words_((padded_inputs + ops.values_per_word - 1) / ops.values_per_word) {
    const auto n_rows = static_cast<std::int64_t>(rows.size());
    n_panels_ = (n_rows + kPanelColumns - 1) / kPanelColumns;
    words_.resize(n_panels_ * panel_words());
    std::vector<float> padded(static_cast<std::size_t>(n_words_ * ops.values_per_word), 0.0F);
    std::vector<Word> row_words(static_cast<std::size_t>(n_words_));
    for (std::int64_t row = 0; row < n_rows; ++row) {
        const float* from = rows[static_cast<std::size_t>(row)];
        if (from == nullptr) continue;
        std::copy_n(from, n_inputs, padded.begin());
        ops.store(padded.data(), static_cast<std::int64_t>(padded.size()), row_words.data());
        Word* to = words_.data() + row / kPanelColumns * panel_words() + row % kPanelColumns;
        for (std::int64_t k = 0; k < n_words_; ++k) {
            to[k * kPanelColumns] = row_words[static_cast<std::size_t>(k)];
        }
    }
}

}  // namespace icm_fast::cpu
