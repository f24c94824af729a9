// What a fuzzer's bytes say: numbers and choices, taken one after the other.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace icm_fast::fuzz {

// Reads an input from its beginning. Where it has ended, every number is 0.
class Bytes {
  public:
    Bytes(const std::uint8_t* data, std::size_t size) : left_(data, size) {}

    [[nodiscard]] bool is_empty() const { return left_.empty(); }

    // A value of a plain type, any bits.
    template <typename T>
    T raw() {
        std::array<std::uint8_t, sizeof(T)> bits{};
        const std::size_t n = std::min(left_.size(), sizeof(T));
        std::copy_n(left_.begin(), n, bits.begin());
        left_ = left_.subspan(n);
        T value;
        std::memcpy(&value, bits.data(), sizeof(T));
        return value;
    }

    // From `low` to `high`, both included, at most 65536 values; `low` where `high` is less.
    std::int64_t between(std::int64_t low, std::int64_t high) {
        if (high <= low) return low;
        const auto span = static_cast<std::uint64_t>(high - low) + 1;
        const std::uint64_t word = span > 256 ? raw<std::uint16_t>() : raw<std::uint8_t>();
        return low + static_cast<std::int64_t>(word % span);
    }

    // One of 256 is true, so that what follows is rarely refused.
    bool rarely() { return raw<std::uint8_t>() == 255; }
    bool flag() { return raw<std::uint8_t>() % 2 == 1; }

    // Mostly from `low` to `high`, rarely any number at all, those at the limits above all.
    std::int64_t number(std::int64_t low, std::int64_t high) {
        if (!rarely()) return between(low, high);
        constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
        constexpr std::int64_t kInt32 = std::numeric_limits<std::int32_t>::max();
        constexpr std::array kEdges = {kMost,     kMost - 1,        -kMost - 1,     -kMost,
                                       kInt32,    kInt32 + 1,       kInt32 - 1,     -kInt32 - 1,
                                       kMost / 2, std::int64_t{-1}, std::int64_t{0}};
        const auto edge = static_cast<std::size_t>(between(0, kEdges.size()));
        return edge < kEdges.size() ? kEdges[edge] : raw<std::int64_t>();
    }

    std::int32_t number32(std::int32_t low, std::int32_t high) {
        constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
        return static_cast<std::int32_t>(std::clamp(number(low, high), -kMost - 1, kMost));
    }

    // Mostly a tame number, rarely any bits, NaN and infinities among them.
    double real(double low, double high) {
        if (rarely()) return raw<double>();
        return low + (high - low) * static_cast<double>(raw<std::uint16_t>()) / 65535.0;
    }

  private:
    std::span<const std::uint8_t> left_;
};

// A wrong result without an error: ends the process, and the fuzzer keeps the input.
[[noreturn]] inline void wrong(const char* what) {
    static_cast<void>(std::fprintf(stderr, "WRONG RESULT: %s\n", what));
    std::abort();
}

inline void expect(bool holds, const char* what) {
    if (!holds) wrong(what);
}

// Whether `action` is refused with std::invalid_argument, which every entry point may throw; what
// else it throws ends the process.
template <typename Action>
bool is_refused(const Action& action) {
    try {
        action();
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

}  // namespace icm_fast::fuzz
