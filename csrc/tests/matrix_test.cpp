// Packed matrices and products against loops in double precision.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "cpu/packed_matrix.hpp"
#include "tests/check.hpp"
#include "tests/inputs.hpp"

namespace icm_fast::tests {
namespace {

// y = W x for `n_rows` vectors x.
struct Product {
    std::int64_t n_rows;
    std::int64_t n_inputs;
    std::int64_t n_outputs;
    bool accumulate;
};

struct Operands {
    Floats x;  // [n_rows][n_inputs]
    Floats w;  // [n_outputs][n_inputs]
};

// As the table sees them.
Operands make_operands(const cpu::Ops& ops, const Product& p) {
    return {rounded(ops, random_floats(p.n_rows * p.n_inputs, 1)),
            rounded(ops, random_floats(p.n_outputs * p.n_inputs, 2))};
}

cpu::PackedMatrix pack(const cpu::Ops& ops, const Product& p, const Floats& w) {
    std::vector<const float*> rows;
    for (std::int64_t o = 0; o < p.n_outputs; ++o) rows.push_back(w.data() + o * p.n_inputs);
    return {ops, rows, p.n_inputs, p.n_inputs};
}

// Rows with a gap between them that must not be read; nothing lies behind the last one.
Words spread(const cpu::Ops& ops, const Product& p, const Floats& x, std::int64_t stride) {
    const std::int64_t n_words = p.n_inputs / ops.values_per_word;
    Words words(to_size((p.n_rows - 1) * stride + n_words), kNanWord);
    for (std::int64_t row = 0; row < p.n_rows; ++row) {
        ops.store(x.data() + row * p.n_inputs, p.n_inputs, words.data() + row * stride);
    }
    return words;
}

struct Sum {
    double value = 0.0;
    double magnitude = 0.0;
};

Sum plain(const Product& p, const Operands& o, std::int64_t row, std::int64_t output) {
    Sum sum;
    for (std::int64_t k = 0; k < p.n_inputs; ++k) {
        const double term = static_cast<double>(o.x[to_size(row * p.n_inputs + k)]) *
                            o.w[to_size(output * p.n_inputs + k)];
        sum.value += term;
        sum.magnitude += std::abs(term);
    }
    return sum;
}

void check_product(const cpu::Ops& ops, const Product& p) {
    const Input input("rows " + std::to_string(p.n_rows) + " k " + std::to_string(p.n_inputs));
    const Operands operands = make_operands(ops, p);
    const cpu::PackedMatrix matrix = pack(ops, p, operands.w);
    const std::int64_t stride = p.n_inputs / ops.values_per_word + 3;
    const Words a = spread(ops, p, operands.x, stride);
    const std::int64_t columns = matrix.n_panels() * cpu::kPanelColumns;
    const std::int64_t c_stride = columns + 5;
    const float start = p.accumulate ? 0.25F : kNan;
    Floats c(to_size(p.n_rows * c_stride), start);
    ops.gemm({.a = a.data(),
              .a_stride = stride,
              .n_rows = p.n_rows,
              .b = matrix.panel(0),
              .b_panel_words = matrix.panel_words(),
              .n_panels = matrix.n_panels(),
              .n_words = matrix.n_words(),
              .c = c.data(),
              .c_stride = c_stride,
              .accumulate = p.accumulate});
    const double before = p.accumulate ? 0.25 : 0.0;
    for (std::int64_t row = 0; row < p.n_rows; ++row) {
        const float* at = c.data() + row * c_stride;
        for (std::int64_t column = 0; column < columns; ++column) {
            const bool real = column < p.n_outputs;
            const Sum sum = real ? plain(p, operands, row, column) : Sum{};
            // One rounding per term, of a sum that is at most `magnitude`.
            const double most =
                static_cast<double>(p.n_inputs) * 0x1p-23 * (sum.magnitude + before);
            CHECK_NEAR(static_cast<double>(at[column]), sum.value + before, most);
        }
        for (std::int64_t column = columns; column < c_stride; ++column) {
            CHECK(p.accumulate ? at[column] == start : std::isnan(at[column]));
        }
    }
}

}  // namespace

NATIVE_TEST(matrix, products_of_any_number_of_rows) {
    for_each_table([](const cpu::Ops& ops) {
        for (std::int64_t n_rows = 1; n_rows <= 37; ++n_rows) {
            for (const std::int64_t n_inputs : {2, 34, 130}) {
                check_product(ops, {n_rows, n_inputs, 59, false});
                check_product(ops, {n_rows, n_inputs, 59, true});
            }
        }
    });
}

NATIVE_TEST(matrix, products_of_many_inputs_and_outputs) {
    for_each_table([](const cpu::Ops& ops) {
        for (const std::int64_t n_outputs : {1, 31, 32, 33, 200}) {
            check_product(ops, {5, 1030, n_outputs, false});
            check_product(ops, {13, 6, n_outputs, true});
        }
    });
}

NATIVE_TEST(matrix, products_of_no_rows_write_nothing) {
    for_each_table([](const cpu::Ops& ops) {
        const Floats w = random_floats(64, 3);
        const cpu::PackedMatrix matrix = pack(ops, {1, 2, 32, false}, w);
        Floats c(32, kNan);
        const Words a(1);
        ops.gemm({.a = a.data(),
                  .a_stride = 1,
                  .n_rows = 0,
                  .b = matrix.panel(0),
                  .b_panel_words = matrix.panel_words(),
                  .n_panels = matrix.n_panels(),
                  .n_words = matrix.n_words(),
                  .c = c.data(),
                  .c_stride = 32,
                  .accumulate = false});
        for (const float value : c) CHECK(std::isnan(value));
    });
}

// Inputs are padded to the width asked for, outputs to whole panels, absent outputs are zero.
NATIVE_TEST(matrix, padding_is_zero) {
    for_each_table([](const cpu::Ops& ops) {
        const Floats row = {1.0F, 2.0F, 3.0F};
        const std::vector<const float*> rows = {row.data(), nullptr, row.data()};
        const cpu::PackedMatrix matrix(ops, rows, 3, 8);
        CHECK_EQUAL(matrix.n_panels(), 1);
        CHECK_EQUAL(matrix.n_words(), 8 / ops.values_per_word);
        for (std::int64_t word = 0; word < matrix.n_words(); ++word) {
            for (std::int64_t output = 0; output < cpu::kPanelColumns; ++output) {
                const Floats pair = loaded(ops, {matrix.panel(0, word)[output]});
                for (std::int64_t v = 0; v < ops.values_per_word; ++v) {
                    const std::int64_t k = word * ops.values_per_word + v;
                    const bool real = (output == 0 || output == 2) && k < 3;
                    CHECK_EQUAL(pair[to_size(v)], real ? row[to_size(k)] : 0.0F);
                }
            }
        }
    });
}

}  // namespace icm_fast::tests
