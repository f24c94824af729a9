// AVX2 with fused multiply-add, in float32.
#include <immintrin.h>

#include "cpu/kernels_impl.hpp"
#include "cpu/kernels_tables.hpp"

namespace icm_fast::cpu {
namespace {

struct Avx2 : FloatWords {
    static constexpr int kLanes = 8;
    static constexpr int kVectors = 2;
    static constexpr int kRegisters = 16;
    using Floats = __m256;
    using Sums = Floats;
    using Ints = int __attribute__((vector_size(32)));
    using Words = __m256;

    static Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
    static Words load_words(const Word* from) {
        return _mm256_loadu_ps(reinterpret_cast<const float*>(from));
    }
    static Words broadcast(const Word* from) {
        return _mm256_broadcast_ss(reinterpret_cast<const float*>(from));
    }
    static Floats multiply_add(Floats sum, Words a, Words b) { return _mm256_fmadd_ps(a, b, sum); }
    static void store_words(const Floats (&p)[kWord], Word* to) {
        _mm256_storeu_ps(reinterpret_cast<float*>(to), p[0]);
    }
};

}  // namespace

const Ops kAvx2Ops = make_ops<Avx2>("avx2");

}  // namespace icm_fast::cpu
