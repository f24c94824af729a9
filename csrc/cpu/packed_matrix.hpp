// Weights in the order in which the matrix product reads them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cpu/aligned_buffer.hpp"
#include "cpu/ops.hpp"

namespace icm_fast::cpu {

// W of a linear layer y = W x as panels of kPanelColumns outputs: [panel][word of k][output].
// Outputs are padded with zeros to whole panels, k to whole words.
class PackedMatrix {
  public:
    PackedMatrix() = default;
    // `rows` are the outputs in their order, pointers to `n_inputs` floats each; null for a padding
    // of zeros. k is padded with zeros to `padded_inputs`. Throws std::bad_alloc.
    PackedMatrix(const Ops& ops, std::span<const float* const> rows, std::int64_t n_inputs,
                 std::int64_t padded_inputs);

    [[nodiscard]] std::int64_t n_panels() const { return n_panels_; }
    [[nodiscard]] std::int64_t n_words() const { return n_words_; }
    [[nodiscard]] std::int64_t panel_words() const { return n_words_ * kPanelColumns; }
    [[nodiscard]] bool empty() const { return n_panels_ == 0; }
    // First word of a panel, from the given word of k on.
    [[nodiscard]] const Word* panel(std::int64_t panel, std::int64_t word = 0) const {
        return words_.data() + panel * panel_words() + word * kPanelColumns;
    }

  private:
    AlignedBuffer<Word> words_;
    std::int64_t n_panels_ = 0;
    std::int64_t n_words_ = 0;
};

}  // namespace icm_fast::cpu
