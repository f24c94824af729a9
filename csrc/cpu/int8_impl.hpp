// Products of 8-bit integers, once for all instruction sets (see kernels_impl.hpp for the rules).
#pragma once

#include <cstdint>

#include "cpu/int8_ops.hpp"
#include "cpu/product.hpp"

namespace icm_fast::cpu {
namespace {

// An instruction set is a struct with all that product.hpp asks for, where Sums is a vector of
// 32-bit integers, and
//   Floats (a vector of floats), to_floats(Sums).

template <class Isa, class Vector, class Value>
inline Vector load_vector(const Value* from) {
    Vector x;
    __builtin_memcpy(&x, from, sizeof(x));
    return x;
}

// One panel for R rows.
template <class Isa, int R>
inline void int8_rows(const Int8GemmArgs& g, std::int64_t first, std::int64_t column) {
    using Sums = typename Isa::Sums;
    using Floats = typename Isa::Floats;
    constexpr int kVectors = 2;
    constexpr std::int64_t kGroupWords = kInt8Group / kInt8ValuesPerWord;
    const Word* a = g.a + first * g.a_stride;
    const Word* b = g.b + column / kPanelColumns * g.b_panel_words + column % kPanelColumns;
    const float* a_scales = g.a_scales + first * g.a_scale_stride;
    const float* b_scales = g.b_scales + column;
    const std::int32_t* offsets = g.offsets + column;
    bool accumulate = g.accumulate;
    for (std::int64_t word = 0; word < g.n_words; word += kGroupWords) {
        const std::int64_t rest = g.n_words - word;
        Sums sums[R][kVectors];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) {
                sums[r][v] = load_vector<Isa, Sums>(offsets + v * Isa::kLanes);
            }
        }
        add_product<Isa, Layout::kRows, R, kVectors>(sums, a + word, g.a_stride,
                                                     b + word * kPanelColumns, kPanelColumns,
                                                     rest < kGroupWords ? rest : kGroupWords);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            float* to = g.c + (first + r) * g.c_stride + column;
            const float a_scale = a_scales[r * g.a_scale_stride];
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) {
                const Floats scale = load_vector<Isa, Floats>(b_scales + v * Isa::kLanes) * a_scale;
                Floats value = Isa::to_floats(sums[r][v]) * scale;
                float* at = to + v * Isa::kLanes;
                if (accumulate) value += load_vector<Isa, Floats>(at);
                __builtin_memcpy(at, &value, sizeof(value));
            }
        }
        accumulate = true;
        ++a_scales;
        b_scales += g.b_scale_stride;
        offsets += g.b_scale_stride;
    }
}

template <class Isa>
void int8_gemm(const Int8GemmArgs& g) {
    constexpr std::int64_t kColumns = 2 * Isa::kLanes;
    static_assert(kPanelColumns % kColumns == 0);
    for (std::int64_t column = 0; column < g.n_panels * kPanelColumns; column += kColumns) {
        split_rows<kRegisterRows<Isa, 2>>(
            g.n_rows, [&]<int R>(std::int64_t first) { int8_rows<Isa, R>(g, first, column); });
    }
}

inline std::uint32_t bits_of(float x) {
    std::uint32_t bits = 0;
    __builtin_memcpy(&bits, &x, sizeof(bits));
    return bits;
}

inline float quantize_group(const float* __restrict from, std::int64_t n,
                            std::uint8_t* __restrict to) {
    // Without their sign, floats are in the order of their bits: whole numbers have a vector
    // maximum without the special cases of floats.
    std::uint32_t greatest_bits = 0;
    for (std::int64_t i = 0; i < n; ++i) {
        const std::uint32_t magnitude = bits_of(from[i]) & 0x7FFFFFFFU;
        greatest_bits = magnitude > greatest_bits ? magnitude : greatest_bits;
    }
    float greatest = 0.0F;
    __builtin_memcpy(&greatest, &greatest_bits, sizeof(greatest));
    const float steps = greatest > 0.0F ? 127.0F / greatest : 0.0F;
    for (std::int64_t i = 0; i < n; ++i) {
        // Adding 1.5 * 2^23 leaves the nearest whole number in the lowest bits.
        to[i] = static_cast<std::uint8_t>((bits_of(from[i] * steps + 12582912.0F) & 0xFFU) ^ 0x80U);
    }
    return greatest / 127.0F;
}

template <class Isa>
void int8_quantize(const float* from, std::int64_t n, Word* to, float* scales) {
    auto* bytes = reinterpret_cast<std::uint8_t*>(to);
    for (std::int64_t first = 0; first < n; first += kInt8Group) {
        const std::int64_t count = n - first < kInt8Group ? n - first : kInt8Group;
        *scales++ = quantize_group(from + first, count, bytes + first);
    }
    for (std::int64_t i = n; i % kInt8ValuesPerWord != 0; ++i) bytes[i] = 0x80U;
}

template <class Isa>
constexpr Int8Ops make_int8_ops(const char* name) noexcept {
    return {.name = name, .gemm = int8_gemm<Isa>, .quantize = int8_quantize<Isa>};
}

}  // namespace
}  // namespace icm_fast::cpu
