// AVX-512 in float32.
#include <immintrin.h>

#include "cpu/kernels_impl.hpp"
#include "cpu/kernels_tables.hpp"

namespace icm_fast::cpu {
namespace {

struct Avx512 : FloatWords {
    static constexpr int kLanes = 16;
    static constexpr int kVectors = 4;
    static constexpr int kRegisters = 32;
    using Floats = __m512;
    using Sums = Floats;
    using Ints = int __attribute__((vector_size(64)));
    using Words = __m512;

    static Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
    static Words load_words(const Word* from) { return _mm512_loadu_ps(from); }
    static Words broadcast(const Word* from) {
        return _mm512_set1_ps(*reinterpret_cast<const float*>(from));
    }
    static Floats multiply_add(Floats sum, Words a, Words b) { return _mm512_fmadd_ps(a, b, sum); }
    static void store_words(const Floats (&p)[kWord], Word* to) { _mm512_storeu_ps(to, p[0]); }
};

}  // namespace

const Ops kAvx512Ops = make_ops<Avx512>("avx512");

}  // namespace icm_fast::cpu
