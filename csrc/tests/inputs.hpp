// Numbers for the native tests: the same ones every time, and what a table of operations makes of
// them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "cpu/ops.hpp"
#include "tests/check.hpp"

namespace icm_fast::tests {

using Floats = std::vector<float>;
using Words = std::vector<cpu::Word>;

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// A word that reads as NaN in both formats.
inline constexpr cpu::Word kNanWord = 0x7FC07FC0;

inline std::size_t to_size(std::int64_t n) { return static_cast<std::size_t>(n); }

// A linear congruential generator: its upper bits are good enough for test data.
class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed * 2 + 1) {}
    // Uniform in [-scale, scale).
    float next(float scale) {
        state_ = state_ * 6364136223846793005U + 1442695040888963407U;
        const auto bits = static_cast<std::int32_t>(state_ >> 32U);
        return static_cast<float>(bits) * 0x1p-31F * scale;
    }

  private:
    std::uint64_t state_;
};

inline Floats random_floats(std::int64_t n, std::uint64_t seed, float scale = 1.0F) {
    Random random(seed);
    Floats values(to_size(n));
    for (float& value : values) value = random.next(scale);
    return values;
}

inline Words stored(const cpu::Ops& ops, const Floats& values) {
    Words words(values.size() / to_size(ops.values_per_word));
    ops.store(values.data(), static_cast<std::int64_t>(values.size()), words.data());
    return words;
}

inline Floats loaded(const cpu::Ops& ops, const Words& words) {
    Floats values(words.size() * to_size(ops.values_per_word));
    ops.load(words.data(), static_cast<std::int64_t>(values.size()), values.data());
    return values;
}

// What is left of values in the format of a table.
inline Floats rounded(const cpu::Ops& ops, const Floats& values) {
    return loaded(ops, stored(ops, values));
}

inline bool is_float32(const cpu::Ops& ops) { return ops.format == cpu::Format::kFloat32; }

// Calls work(ops) for every table of operations that this processor can run.
template <typename Work>
void for_each_table(const Work& work) {
    std::size_t count = 0;
    const cpu::Ops* const* tables = cpu::available_ops(count);
    for (std::size_t k = 0; k < count; ++k) {
        const Input input(tables[k]->name);
        work(*tables[k]);
    }
}

}  // namespace icm_fast::tests
