// Linear layers in 8-bit integers against loops in double precision over the same integers.
#include "cpu/linear.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/check.hpp"
#include "tests/inputs.hpp"
#include "tests/tiny_decoder.hpp"

namespace icm_fast::tests {
namespace {

template <typename Work>
void for_each_int8(const Work& work) {
    std::size_t count = 0;
    const cpu::Int8Ops* const* tables = cpu::available_int8_ops(count);
    for (std::size_t k = 0; k < count; ++k) {
        const Input input(tables[k]->name);
        work(*tables[k]);
    }
}

struct Bytes {
    Words words;
    Floats scales;
};

Bytes quantized(const cpu::Int8Ops& ops, const Floats& values) {
    const auto n = static_cast<std::int64_t>(values.size());
    Bytes bytes{Words(to_size(cpu::int8_words(n)), kNanWord),
                Floats(to_size(cpu::int8_groups(n)), kNan)};
    ops.quantize(values.data(), n, bytes.words.data(), bytes.scales.data());
    return bytes;
}

// What is left of a row of values.
Floats after_quantizing(const cpu::Int8Ops& ops, const Floats& values) {
    const Bytes bytes = quantized(ops, values);
    const auto* unsigned_bytes = reinterpret_cast<const std::uint8_t*>(bytes.words.data());
    Floats left(values.size());
    for (std::size_t k = 0; k < left.size(); ++k) {
        left[k] = static_cast<float>(unsigned_bytes[k] - 128) *
                  bytes.scales[k / to_size(cpu::kInt8Group)];
    }
    return left;
}

struct Layer {
    std::int64_t n_inputs;
    std::int64_t n_outputs;
};

Floats row_of(const Floats& matrix, std::int64_t row, std::int64_t n) {
    return {matrix.begin() + row * n, matrix.begin() + (row + 1) * n};
}

cpu::Linear make_linear(const cpu::Int8Ops& int8, const Layer& layer, const Floats& w) {
    std::vector<const float*> rows;
    for (std::int64_t o = 0; o < layer.n_outputs; ++o)
        rows.push_back(w.data() + o * layer.n_inputs);
    return {*cpu::pick_ops(cpu::Format::kFloat32), &int8, rows, layer.n_inputs, layer.n_inputs};
}

void check_layer(const cpu::Int8Ops& int8, const Layer& layer, std::int64_t n_rows) {
    const Input input("inputs " + std::to_string(layer.n_inputs) + " rows " +
                      std::to_string(n_rows));
    const std::int64_t n = layer.n_inputs;
    const Floats w = random_floats(layer.n_outputs * n, 2);
    const Floats x = random_floats(n_rows * n, 3, 5.0F);
    const cpu::Linear linear = make_linear(int8, layer, w);
    Words words;
    Floats scales;
    for (std::int64_t row = 0; row < n_rows; ++row) {
        const Bytes bytes = quantized(int8, row_of(x, row, n));
        words.insert(words.end(), bytes.words.begin(), bytes.words.end());
        scales.insert(scales.end(), bytes.scales.begin(), bytes.scales.end());
    }
    const std::int64_t columns = linear.n_panels() * cpu::kPanelColumns;
    Floats c(to_size(n_rows * columns), 0.5F);
    linear.multiply({.words = words.data(),
                     .stride = cpu::int8_words(n),
                     .n_rows = n_rows,
                     .scales = scales.data(),
                     .scale_stride = cpu::int8_groups(n)},
                    {.values = c.data(), .stride = columns, .accumulate = true});
    for (std::int64_t row = 0; row < n_rows; ++row) {
        const Floats left = after_quantizing(int8, row_of(x, row, n));
        for (std::int64_t output = 0; output < columns; ++output) {
            double wanted = 0.5;
            if (output < layer.n_outputs) {
                const Floats weights = after_quantizing(int8, row_of(w, output, n));
                for (std::int64_t k = 0; k < n; ++k) {
                    wanted += static_cast<double>(left[to_size(k)]) * weights[to_size(k)];
                }
            }
            // Weights are rounded half away from zero, inputs half to even: no half occurs here.
            CHECK_NEAR(static_cast<double>(c[to_size(row * columns + output)]), wanted,
                       1e-5 * static_cast<double>(n));
        }
    }
}

}  // namespace

NATIVE_TEST(linear, bytes_are_multiplied_exactly) {
    for_each_int8([](const cpu::Int8Ops& int8) {
        for (const std::int64_t n_inputs : {2, 63, 64, 66, 300}) {
            check_layer(int8, {n_inputs, 37}, 5);
        }
        for (std::int64_t n_rows = 1; n_rows <= 26; ++n_rows) check_layer(int8, {130, 64}, n_rows);
    });
}

NATIVE_TEST(linear, quantizing_rounds_to_the_nearest_step) {
    for_each_int8([](const cpu::Int8Ops& int8) {
        Floats values = random_floats(150, 4);
        values[70] = 40.0F;  // costs its own group its precision, and no other
        const Floats left = after_quantizing(int8, values);
        for (std::size_t k = 0; k < values.size(); ++k) {
            const bool beside = k / 64 == 1;
            const float step = (beside ? 40.0F : 1.0F) / 127.0F;
            CHECK(std::abs(left[k] - values[k]) <= 0.5001F * step);
        }
        CHECK_NEAR(static_cast<double>(left[70]), 40.0, 1e-5);
        CHECK(after_quantizing(int8, Floats(9, 0.0F)) == Floats(9, 0.0F));
    });
}

NATIVE_TEST(linear, a_decoder_in_bytes_is_near_the_exact_one) {
    const TinyTree tree;
    const std::vector<std::vector<std::int64_t>> one_by_one = {{0}, {1}, {2}, {3}, {4},
                                                               {5}, {6}, {7}, {8}};
    const std::vector<std::vector<std::int64_t>> together = {{0, 1, 2, 3, 4, 5, 6, 7, 8}};
    for_each_int8([&](const cpu::Int8Ops& int8) {
        for (const cpu::DecoderShape& shape : {kAwkward, kWide}) {
            for_each_table([&](const cpu::Ops& ops) {
                const Floats exact =
                    run_tree(*make_decoder(ops, shape, Parts::kAll, 2), tree, together);
                const auto decoder = make_decoder(ops, shape, Parts::kAll, 2, &int8);
                const Floats got = run_tree(*decoder, tree, together);
                double error = 0.0;
                double size = 0.0;
                for (std::size_t k = 0; k < got.size(); ++k) {
                    error += std::abs(static_cast<double>(got[k]) - exact[k]);
                    size += std::abs(static_cast<double>(exact[k]));
                }
                CHECK(error > 0.0);
                CHECK(error < 0.05 * size);
                // A row's bytes depend on that row alone.
                CHECK(run_tree(*decoder, tree, one_by_one) == got);
            });
        }
    });
}

}  // namespace icm_fast::tests
