// Any processor, one sum at a time: what the tests hold the fast products against.
#include "cpu/int8_impl.hpp"
#include "cpu/kernels_tables.hpp"

namespace icm_fast::cpu {
namespace {

struct PortableInt8 {
    static constexpr int kLanes = 4;
    static constexpr int kRegisters = 16;
    using Floats = float __attribute__((vector_size(16)));
    using Sums = std::int32_t __attribute__((vector_size(16)));
    using Words = Word __attribute__((vector_size(16)));

    static Words load_words(const Word* from) {
        Words x;
        __builtin_memcpy(&x, from, sizeof(x));
        return x;
    }
    static Words broadcast(const Word* from) { return *from - Words{}; }
    static Sums multiply_add(Sums sum, Words a, Words b) {
        for (int lane = 0; lane < kLanes; ++lane) {
            std::uint8_t activations[kInt8ValuesPerWord];
            std::int8_t weights[kInt8ValuesPerWord];
            const Word wa = a[lane];
            const Word wb = b[lane];
            __builtin_memcpy(activations, &wa, sizeof(wa));
            __builtin_memcpy(weights, &wb, sizeof(wb));
            for (int k = 0; k < kInt8ValuesPerWord; ++k) sum[lane] += activations[k] * weights[k];
        }
        return sum;
    }
    static Floats to_floats(Sums x) { return __builtin_convertvector(x, Floats); }
};

}  // namespace

const Int8Ops kPortableInt8Ops = make_int8_ops<PortableInt8>("portable_int8");

}  // namespace icm_fast::cpu
