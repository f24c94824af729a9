// Matrix products of 8-bit integers: an approximation of the linear layers, taken where asked for.
//
// A word holds four neighbouring values of k. Activations are unsigned (128 is zero), weights are
// signed. Both have a scale for each group of kInt8Group values of k: a few inputs are far greater
// than all others, and cost only their own group its precision.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/ops.hpp"

namespace icm_fast::cpu {

inline constexpr std::int64_t kInt8ValuesPerWord = 4;
inline constexpr std::int64_t kInt8Group = 64;

constexpr std::int64_t int8_words(std::int64_t n_values) {
    return (n_values + kInt8ValuesPerWord - 1) / kInt8ValuesPerWord;
}
constexpr std::int64_t int8_groups(std::int64_t n_values) {
    return (n_values + kInt8Group - 1) / kInt8Group;
}

// C[rows, columns] (+)= sum over groups of scale_a (A - 128) B scale_b, columns a multiple of
// kPanelColumns.
struct Int8GemmArgs {
    const Word* a;
    std::int64_t a_stride;        // words between rows of A
    const float* a_scales;        // [n_rows][groups]
    std::int64_t a_scale_stride;  // scales between rows of A
    std::int64_t n_rows;
    const Word* b;                // packed: [panel][word][kPanelColumns]
    std::int64_t b_panel_words;   // words between panels of B
    const float* b_scales;        // [group][columns]
    const std::int32_t* offsets;  // as b_scales: -128 times the column sums of B
    std::int64_t b_scale_stride;  // scales between groups of B
    std::int64_t n_panels;
    std::int64_t n_words;  // words of k
    float* c;
    std::int64_t c_stride;  // floats between rows of C
    bool accumulate;
};

struct Int8Ops {
    const char* name;
    void (*gemm)(const Int8GemmArgs&);
    // Rounds n floats to 127 steps of the greatest magnitude of their group. The last word is
    // padded with zeros.
    void (*quantize)(const float* from, std::int64_t n, Word* to, float* scales);
};

// The fastest products of this processor; null where it has no instruction for them (the portable
// loops would be slower than float32).
const Int8Ops* pick_int8_ops();

// All that this processor can run, portable loops included; `count` receives their number.
const Int8Ops* const* available_int8_ops(std::size_t& count);

}  // namespace icm_fast::cpu
