// AVX-512 with bfloat16 dot products (Zen 4 and later, Cooper Lake, Sapphire Rapids and later).
#include <immintrin.h>

#include "cpu/kernels_impl.hpp"
#include "cpu/kernels_tables.hpp"

namespace icm_fast::cpu {
namespace {

struct Avx512Bf16 {
    static constexpr int kLanes = 16;
    static constexpr int kWord = 2;
    static constexpr int kVectors = 4;
    static constexpr int kRegisters = 32;
    using Floats = __m512;
    using Sums = Floats;
    using Ints = int __attribute__((vector_size(64)));
    using Words = __m512i;

    static Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
    static Words load_words(const Word* from) { return _mm512_loadu_si512(from); }
    static Words broadcast(const Word* from) { return _mm512_set1_epi32(static_cast<int>(*from)); }
    static Floats multiply_add(Floats sum, Words a, Words b) {
        return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
    }
    // Word i holds lane i of both vectors, which are not negative: ties are rounded up.
    static void store_words(const Floats (&p)[kWord], Word* to) {
        const __m512i half = _mm512_set1_epi32(0x8000);
        const __m512i low = _mm512_add_epi32(_mm512_castps_si512(p[0]), half);
        const __m512i high = _mm512_add_epi32(_mm512_castps_si512(p[1]), half);
        _mm512_storeu_si512(to,
                            _mm512_mask_blend_epi16(0xAAAAAAAAU, _mm512_srli_epi32(low, 16), high));
    }
    static __m256i rounded(Floats x) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)); }
    static std::uint16_t rounded(float x) {
        return static_cast<std::uint16_t>(
            _mm_extract_epi16(reinterpret_cast<__m128i>(_mm_cvtneps_pbh(_mm_set_ss(x))), 0));
    }

    static void store_row(const float* from, std::int64_t n, Word* to) {
        auto* halves = reinterpret_cast<std::uint16_t*>(to);
        std::int64_t i = 0;
        for (; i + kLanes <= n; i += kLanes) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves + i),
                                rounded(_mm512_loadu_ps(from + i)));
        }
        for (; i < n; ++i) halves[i] = rounded(from[i]);
    }
    static void load_row(const Word* from, std::int64_t n, float* to) {
        const auto* halves = reinterpret_cast<const std::uint16_t*>(from);
        for (std::int64_t i = 0; i < n; ++i) {
            const Word bits = static_cast<Word>(halves[i]) << 16;
            __builtin_memcpy(to + i, &bits, sizeof(bits));
        }
    }
    static void store_value(const float* from, std::int64_t head_dim, std::int64_t slot,
                            Word* values) {
        auto* halves = reinterpret_cast<std::uint16_t*>(values + slot / kWord * head_dim);
        for (std::int64_t d = 0; d < head_dim; ++d) {
            halves[d * kWord + slot % kWord] = rounded(from[d]);
        }
    }
};

}  // namespace

const Ops kAvx512Bf16Ops = make_ops<Avx512Bf16>("avx512_bf16");

}  // namespace icm_fast::cpu
