// Products, 8-bit integers, attention and pools of any small shape, for every instruction set of
// the processor, against loops in double precision.
#include <cmath>
#include <cstdint>
#include <new>
#include <vector>

#include "cpu/int8_ops.hpp"
#include "cpu/kv_pool.hpp"
#include "cpu/linear.hpp"
#include "cpu/packed_matrix.hpp"
#include "fuzz/bytes.hpp"
#include "tests/attention_problem.hpp"
#include "tests/inputs.hpp"

namespace icm_fast::fuzz {
namespace {

using tests::Floats;
using tests::to_size;

const cpu::Ops& random_ops(Bytes& bytes) {
    std::size_t count = 0;
    const cpu::Ops* const* tables = cpu::available_ops(count);
    return *tables[to_size(bytes.between(0, 255)) % count];
}

std::vector<const float*> rows_of(const Floats& matrix, std::int64_t n_rows, std::int64_t width) {
    std::vector<const float*> rows;
    for (std::int64_t r = 0; r < n_rows; ++r) rows.push_back(matrix.data() + r * width);
    return rows;
}

// |got - sum of products| within what rounding explains; 8-bit integers are rougher.
void check_products(const Floats& x, const Floats& w, const Floats& got, std::int64_t n_rows,
                    std::int64_t n_inputs, std::int64_t n_outputs, std::int64_t stride,
                    double error) {
    for (std::int64_t row = 0; row < n_rows; ++row) {
        for (std::int64_t output = 0; output < n_outputs; ++output) {
            double sum = 0.0;
            double magnitude = 0.0;
            for (std::int64_t k = 0; k < n_inputs; ++k) {
                const double term = static_cast<double>(x[to_size(row * n_inputs + k)]) *
                                    w[to_size(output * n_inputs + k)];
                sum += term;
                magnitude += std::abs(term);
            }
            const double off = std::abs(got[to_size(row * stride + output)] - sum);
            expect(off <= error * (magnitude + 1e-30), "a product is wrong");
        }
    }
}

void fuzz_product(Bytes& bytes) {
    const cpu::Ops& ops = random_ops(bytes);
    const std::int64_t n_rows = bytes.between(1, 40);
    const std::int64_t n_inputs = 2 * bytes.between(1, 120);
    const std::int64_t n_outputs = bytes.between(1, 100);
    const auto seed = bytes.raw<std::uint8_t>();
    const Floats x = tests::rounded(ops, tests::random_floats(n_rows * n_inputs, seed));
    const Floats w = tests::rounded(ops, tests::random_floats(n_outputs * n_inputs, seed + 1U));
    const tests::Words words = tests::stored(ops, x);
    const cpu::Linear linear(ops, nullptr, rows_of(w, n_outputs, n_inputs), n_inputs, n_inputs);
    const std::int64_t stride = linear.n_panels() * cpu::kPanelColumns;
    Floats got(to_size(n_rows * stride), tests::kNan);
    linear.multiply({words.data(), n_inputs / ops.values_per_word, n_rows, nullptr, 0},
                    {got.data(), stride, false});
    check_products(x, w, got, n_rows, n_inputs, n_outputs, stride,
                   static_cast<double>(n_inputs) * 0x1p-22);
}

void fuzz_int8(Bytes& bytes) {
    std::size_t count = 0;
    const cpu::Int8Ops* const* tables = cpu::available_int8_ops(count);
    if (count == 0) return;
    const cpu::Int8Ops& int8 = *tables[to_size(bytes.between(0, 255)) % count];
    const cpu::Ops& ops = random_ops(bytes);
    const std::int64_t n_rows = bytes.between(1, 40);
    const std::int64_t n_inputs = 2 * bytes.between(1, 120);
    const std::int64_t n_outputs = bytes.between(1, 70);
    const auto seed = bytes.raw<std::uint8_t>();
    const auto scale = static_cast<float>(std::pow(10.0, bytes.real(-30.0, 8.0)));
    if (!std::isfinite(scale)) return;
    const Floats x = tests::random_floats(n_rows * n_inputs, seed, scale);
    const Floats w = tests::random_floats(n_outputs * n_inputs, seed + 1U);
    const std::int64_t n_words = cpu::int8_words(n_inputs);
    const std::int64_t n_groups = cpu::int8_groups(n_inputs);
    tests::Words words(to_size(n_rows * n_words));
    Floats scales(to_size(n_rows * n_groups));
    for (std::int64_t row = 0; row < n_rows; ++row) {
        int8.quantize(x.data() + row * n_inputs, n_inputs, words.data() + row * n_words,
                      scales.data() + row * n_groups);
    }
    const cpu::Linear linear(ops, &int8, rows_of(w, n_outputs, n_inputs), n_inputs, n_inputs);
    const std::int64_t stride = linear.n_panels() * cpu::kPanelColumns;
    Floats got(to_size(n_rows * stride), tests::kNan);
    linear.multiply({words.data(), n_words, n_rows, scales.data(), n_groups},
                    {got.data(), stride, false});
    for (const float value : got) expect(std::isfinite(value), "a product is not finite");
    // Each factor is off by up to 1 / 254 of the greatest of its group, which are at most 1.
    for (std::int64_t row = 0; row < n_rows; ++row) {
        for (std::int64_t output = 0; output < n_outputs; ++output) {
            double sum = 0.0;
            for (std::int64_t k = 0; k < n_inputs; ++k) {
                sum += static_cast<double>(x[to_size(row * n_inputs + k)]) *
                       w[to_size(output * n_inputs + k)];
            }
            const double off = std::abs(got[to_size(row * stride + output)] - sum);
            const double most = static_cast<double>(n_inputs) * double{scale} * 2.1 / 254.0;
            expect(off <= most + 1e-30, "a product of 8-bit integers is wrong");
        }
    }
}

void fuzz_attention(Bytes& bytes) {
    const cpu::Ops& ops = random_ops(bytes);
    const std::int64_t group = bytes.between(1, 9);
    const std::int64_t head_dim = 2 * bytes.between(1, 36);
    cpu::AttentionOptions options{.scaling = static_cast<float>(bytes.between(0, 255)) / 64.0F,
                                  .window = bytes.flag() ? bytes.between(0, 300) : 0};
    if (bytes.flag()) options.softcap = 0.5F + static_cast<float>(bytes.between(0, 60));
    const Floats sinks = tests::random_floats(group * 2, bytes.raw<std::uint8_t>(), 5.0F);
    if (bytes.flag()) options.sinks = sinks.data();
    std::vector<tests::SegmentSizes> sizes;
    const std::int64_t n_segments = bytes.between(1, 5);
    for (std::int64_t s = 0; s < n_segments; ++s) {
        tests::SegmentSizes segment{{}, bytes.between(1, 20)};
        const std::int64_t n_ancestors = bytes.between(0, 6);
        for (std::int64_t k = 0; k < n_ancestors; ++k) {
            segment.ancestors.push_back(bytes.between(1, bytes.rarely() ? 300 : 30));
        }
        sizes.push_back(std::move(segment));
    }
    try {
        tests::AttentionProblem(ops, sizes, group, head_dim).check(options);
    } catch (const std::runtime_error& error) {
        wrong(error.what());
    }
}

// Pools of any size: made, or refused; never half there.
void fuzz_pool(Bytes& bytes) {
    const cpu::Ops& ops = random_ops(bytes);
    const std::int64_t head_dim = bytes.rarely() ? bytes.number(1, 40) : 2 * bytes.between(1, 20);
    const cpu::KvShape shape{bytes.number(1, 3), bytes.number(1, 4), head_dim, bytes.number(1, 50)};
    // Sizes that this machine has, but the checks do not allow, say nothing.
    const double size = static_cast<double>(shape.n_layers) * static_cast<double>(shape.n_heads) *
                        static_cast<double>(shape.head_dim) * static_cast<double>(shape.n_slots);
    if (size > 1e6 && size < 1e17) return;
    try {
        cpu::KvPool pool(ops, shape);
        const Floats key(to_size(shape.head_dim), 1.0F);
        const std::int64_t layer = shape.n_layers - 1;
        const std::int64_t slot = bytes.between(0, 50) % shape.n_slots;
        pool.write(layer, shape.n_heads - 1, slot, key.data(), key.data());
        expect(pool.n_bytes() > 0, "a pool has no bytes");
    } catch (const std::invalid_argument&) {
    } catch (const std::bad_alloc&) {
    }
}

}  // namespace
}  // namespace icm_fast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    icm_fast::fuzz::Bytes bytes(data, size);
    switch (bytes.between(0, 3)) {
        case 0:
            icm_fast::fuzz::fuzz_product(bytes);
            break;
        case 1:
            icm_fast::fuzz::fuzz_int8(bytes);
            break;
        case 2:
            icm_fast::fuzz::fuzz_attention(bytes);
            break;
        default:
            icm_fast::fuzz::fuzz_pool(bytes);
    }
    return 0;
}
