// Seeded orders that are the same on every platform and compiler, unlike std::shuffle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

namespace icm_fast::plan {

// One step of splitmix64 (Steele, Lea, Flood 2014): a bijection of 64-bit words.
constexpr std::uint64_t splitmix64(std::uint64_t word) {
    word += 0x9E3779B97F4A7C15ULL;
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9ULL;
    word = (word ^ (word >> 27)) * 0x94D049BB133111EBULL;
    return word ^ (word >> 31);
}

// A stream of random words, a pure function of (seed, stream). Not thread-safe; cheap to copy.
class RandomStream {
  public:
    constexpr RandomStream(std::uint64_t seed, std::uint64_t stream)
        : state_(splitmix64(splitmix64(seed) ^ stream)) {}

    constexpr std::uint64_t next() { return splitmix64(state_++); }

    // Uniform in [0, bound), bound >= 1; rejects the incomplete last block, so it has no bias.
    constexpr std::uint64_t below(std::uint64_t bound) {
        constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
        const std::uint64_t limit = kMax - kMax % bound;
        std::uint64_t word = next();
        while (word >= limit) word = next();
        return word % bound;
    }

  private:
    std::uint64_t state_;
};

// Fisher-Yates from the end.
template <typename T>
constexpr void shuffle(std::span<T> items, RandomStream stream) {
    for (std::size_t left = items.size(); left > 1; --left) {
        std::swap(items[left - 1], items[static_cast<std::size_t>(stream.below(left))]);
    }
}

}  // namespace icm_fast::plan
