// Any processor: vectors of four floats, which compilers map to SSE2, NEON or plain code.
#include "cpu/kernels_impl.hpp"
#include "cpu/kernels_tables.hpp"

namespace icm_fast::cpu {
namespace {

struct Portable : FloatWords {
    static constexpr int kLanes = 4;
    static constexpr int kVectors = 2;
    static constexpr int kRegisters = 16;
    using Floats = float __attribute__((vector_size(16)));
    using Sums = Floats;
    using Ints = int __attribute__((vector_size(16)));
    using Words = Floats;

    static Floats larger(Floats a, Floats b) { return a > b ? a : b; }
    static Words load_words(const Word* from) {
        Words x;
        __builtin_memcpy(&x, from, sizeof(x));
        return x;
    }
    static Words broadcast(const Word* from) {
        float x = 0.0F;
        __builtin_memcpy(&x, from, sizeof(x));
        return x - Words{};
    }
    static Floats multiply_add(Floats sum, Words a, Words b) { return sum + a * b; }
    static void store_words(const Floats (&p)[kWord], Word* to) {
        __builtin_memcpy(to, p, sizeof(Floats));
    }
};

}  // namespace

const Ops kPortableOps = make_ops<Portable>("portable");

}  // namespace icm_fast::cpu
