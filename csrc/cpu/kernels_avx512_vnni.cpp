// AVX-512 with dot products of bytes (Cascade Lake, Ice Lake, Zen 4 and later).
#include <immintrin.h>

#include "cpu/int8_impl.hpp"
#include "cpu/kernels_tables.hpp"

namespace icm_fast::cpu {
namespace {

struct Avx512Vnni {
    static constexpr int kLanes = 16;
    static constexpr int kRegisters = 32;
    using Floats = __m512;
    // Not __m512i, whose arrays GCC keeps in memory.
    using Sums = std::int32_t __attribute__((vector_size(64)));
    using Words = __m512i;

    static Words load_words(const Word* from) { return _mm512_loadu_si512(from); }
    static Words broadcast(const Word* from) { return _mm512_set1_epi32(static_cast<int>(*from)); }
    static Sums multiply_add(Sums sum, Words a, Words b) {
        return reinterpret_cast<Sums>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), a, b));
    }
    static Floats to_floats(Sums x) { return _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(x)); }
};

}  // namespace

const Int8Ops kAvx512VnniOps = make_int8_ops<Avx512Vnni>("avx512_vnni");

}  // namespace icm_fast::cpu
