// What happens to rows between the products, against plain loops.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "tests/check.hpp"
#include "tests/inputs.hpp"

namespace icm_fast::tests {
namespace {

// A bfloat16 is the upper half of a float32; halfway cases go to the even one.
float nearest_bfloat16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t up = 0x7FFFU + ((bits >> 16U) & 1U);
    return std::bit_cast<float>((bits + up) & 0xFFFF0000U);
}

// Half the distance between neighbours around 1, as a share of the value.
double rounding_of(const cpu::Ops& ops) { return is_float32(ops) ? 0x1p-24 : 0x1p-8; }

// Results in words, with a word behind them that must stay as it is.
class Row {
  public:
    Row(const cpu::Ops& ops, std::int64_t n)
        : ops_(ops), words_(to_size(n / ops.values_per_word + 1), kNanWord) {}

    cpu::Word* data() { return words_.data(); }
    Floats values() {
        CHECK_EQUAL(words_.back(), kNanWord);
        words_.pop_back();
        return loaded(ops_, words_);
    }

  private:
    const cpu::Ops& ops_;
    Words words_;
};

double inverse_rms(const Floats& x, float eps) {
    double squares = 0.0;
    for (const float value : x) squares += static_cast<double>(value) * value;
    return 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + eps);
}

double activate(cpu::Activation activation, double x) {
    if (activation == cpu::Activation::kSilu) return x / (1.0 + std::exp(-x));
    const double z = std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
    return x / (1.0 + std::exp(-2.0 * z));  // 0.5 x (1 + tanh z), exact for large -z, too
}

// Panels of 16 gate and 16 up columns.
Floats interleaved(const Floats& gates, const Floats& ups) {
    Floats panels;
    for (std::size_t first = 0; first < gates.size(); first += 16) {
        for (std::size_t k = 0; k < 16; ++k) panels.push_back(gates[first + k]);
        for (std::size_t k = 0; k < 16; ++k) panels.push_back(ups[first + k]);
    }
    return panels;
}

void check_gate(const cpu::Ops& ops, cpu::Activation activation, const Floats& gates,
                const Floats& ups, double most_relative) {
    const auto n = static_cast<std::int64_t>(gates.size());
    Row row(ops, n);
    ops.gate(interleaved(gates, ups).data(), n, activation, row.data());
    const Floats got = row.values();
    for (std::size_t k = 0; k < gates.size(); ++k) {
        const Input input("gate " + std::to_string(gates[k]));
        const double wanted = activate(activation, gates[k]) * ups[k];
        CHECK_NEAR(static_cast<double>(got[k]), wanted,
                   (most_relative + rounding_of(ops)) * std::abs(wanted) + 1e-38);
    }
}

}  // namespace

NATIVE_TEST(rows, stored_values_are_the_nearest) {
    for_each_table([](const cpu::Ops& ops) {
        const float infinity = std::numeric_limits<float>::infinity();
        Floats values = random_floats(50, 1, 1000.0F);
        // Halfway between two bfloat16, below and above an odd one, and the ends of the range.
        values.insert(values.end(), {1.00390625F, 1.01171875F, -1.00390625F, 1.003906369F, 0.0F,
                                     -0.0F, infinity, -infinity, 1e38F, 2e-38F});
        const Floats got = rounded(ops, values);
        for (std::size_t k = 0; k < values.size(); ++k) {
            const float wanted = is_float32(ops) ? values[k] : nearest_bfloat16(values[k]);
            CHECK_EQUAL(std::bit_cast<std::uint32_t>(got[k]), std::bit_cast<std::uint32_t>(wanted));
        }
    });
}

NATIVE_TEST(rows, store_and_load_take_any_length) {
    for_each_table([](const cpu::Ops& ops) {
        for (std::int64_t n = 2; n <= 70; n += 2) {
            const Floats values = random_floats(n, 2);
            Row row(ops, n);
            ops.store(values.data(), n, row.data());
            const Floats got = row.values();
            CHECK_EQUAL(got.size(), values.size());
            for (std::size_t k = 0; k < got.size(); ++k) {
                CHECK_NEAR(got[k], values[k], rounding_of(ops) * std::abs(values[k]));
            }
        }
    });
}

NATIVE_TEST(rows, norm) {
    for_each_table([](const cpu::Ops& ops) {
        for (const std::int64_t n : {2, 8, 36, 250, 256, 258, 576, 1026}) {
            const Input input("n " + std::to_string(n));
            const Floats x = random_floats(n, 3, 5.0F);
            const Floats weight = random_floats(n, 4);
            const float eps = 1e-5F;
            Row row(ops, n);
            ops.norm(x.data(), weight.data(), eps, n, row.data());
            const Floats got = row.values();
            const double factor = inverse_rms(x, eps);
            for (std::size_t k = 0; k < got.size(); ++k) {
                const double wanted = x[k] * factor * weight[k];
                CHECK_NEAR(static_cast<double>(got[k]), wanted,
                           (1e-6 + rounding_of(ops)) * std::abs(wanted));
            }
        }
    });
}

NATIVE_TEST(rows, norm_of_zeros_is_zero) {
    for_each_table([](const cpu::Ops& ops) {
        const Floats zeros(40, 0.0F);
        const Floats ones(40, 1.0F);
        Row row(ops, 40);
        ops.norm(zeros.data(), ones.data(), 1e-6F, 40, row.data());
        for (const float value : row.values()) CHECK_EQUAL(value, 0.0F);
    });
}

NATIVE_TEST(rows, norm_float_in_place_and_added) {
    for_each_table([](const cpu::Ops& ops) {
        for (const std::int64_t n : {1, 7, 8, 80, 129}) {
            const Floats x = random_floats(n, 5, 3.0F);
            const Floats weight = random_floats(n, 6);
            Floats in_place = x;
            Floats added(to_size(n), 0.5F);
            ops.norm_float(x.data(), weight.data(), 1e-6F, n, added.data(), true);
            ops.norm_float(in_place.data(), weight.data(), 1e-6F, n, in_place.data(), false);
            const double factor = inverse_rms(x, 1e-6F);
            for (std::size_t k = 0; k < x.size(); ++k) {
                const double wanted = x[k] * factor * weight[k];
                CHECK_NEAR(static_cast<double>(in_place[k]), wanted, 1e-6 * std::abs(wanted));
                CHECK_NEAR(static_cast<double>(added[k]), wanted + 0.5, 1e-6);
            }
        }
    });
}

NATIVE_TEST(rows, rotate) {
    for_each_table([](const cpu::Ops& ops) {
        for (const std::int64_t half : {0, 1, 4, 5, 32, 40}) {
            const Floats x = random_floats(2 * half + 3, 7);
            const Floats angles = random_floats(half, 8, 3.0F);
            Floats cosine;
            Floats sine;
            for (const float angle : angles) {
                cosine.push_back(std::cos(angle));
                sine.push_back(std::sin(angle));
            }
            Floats got = x;
            ops.rotate(got.data(), cosine.data(), sine.data(), half);
            for (std::size_t k = 0; k < to_size(half); ++k) {
                const std::size_t other = k + to_size(half);
                const double c = cosine[k];
                const double s = sine[k];
                CHECK_NEAR(static_cast<double>(got[k]), x[k] * c - x[other] * s, 3e-7);
                CHECK_NEAR(static_cast<double>(got[other]), x[other] * c + x[k] * s, 3e-7);
            }
            // What is not rotated stays.
            for (std::size_t k = to_size(2 * half); k < x.size(); ++k) CHECK_EQUAL(got[k], x[k]);
        }
    });
}

NATIVE_TEST(rows, gate) {
    for_each_table([](const cpu::Ops& ops) {
        for (const std::int64_t n : {16, 48, 512}) {
            const Floats gates = random_floats(n, 9, 4.0F);
            const Floats ups = random_floats(n, 10, 2.0F);
            check_gate(ops, cpu::Activation::kSilu, gates, ups, 1e-6);
            check_gate(ops, cpu::Activation::kGeluTanh, gates, ups, 4e-6);
        }
    });
}

// silu(-x) is about -x exp(-x), so its relative error is that of the exponential.
NATIVE_TEST(rows, exponential_is_accurate_over_its_range) {
    for_each_table([](const cpu::Ops& ops) {
        Floats gates;
        for (int k = -1360; k < 1360; ++k) gates.push_back(static_cast<float>(k) * 0.0625F);
        const Floats ones(gates.size(), 1.0F);
        check_gate(ops, cpu::Activation::kSilu, gates, ones, 2.5e-7);
    });
}

NATIVE_TEST(rows, gate_saturates) {
    for_each_table([](const cpu::Ops& ops) {
        const Floats gates = {-1e30F, -1e6F, -1000.0F, -200.0F, 200.0F, 1000.0F, 1e6F, 1e30F,
                              -1e30F, -1e6F, -1000.0F, -200.0F, 200.0F, 1000.0F, 1e6F, 1e30F};
        const Floats ones(gates.size(), 1.0F);
        for (const auto activation : {cpu::Activation::kSilu, cpu::Activation::kGeluTanh}) {
            Row row(ops, 16);
            ops.gate(interleaved(gates, ones).data(), 16, activation, row.data());
            const Floats got = row.values();
            for (std::size_t k = 0; k < gates.size(); ++k) {
                const float wanted = gates[k] > 0.0F ? gates[k] : 0.0F;
                CHECK_NEAR(got[k], wanted, 0.005F * wanted + 1e-6F);
            }
        }
    });
}

}  // namespace icm_fast::tests
