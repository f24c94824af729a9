// Sizes that may come from anywhere: products that are checked, and memory that may be missing.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace icm_fast::cpu {

// Says how much memory there was not; MemoryError in Python.
class NoMemory : public std::bad_alloc {
  public:
    explicit NoMemory(std::string message) : message_(std::move(message)) {}
    [[nodiscard]] const char* what() const noexcept override { return message_.c_str(); }

  private:
    std::string message_;
};

// Bytes that any one allocation can have: what is more has overflowed or will.
inline constexpr std::int64_t kMaxBytes = std::numeric_limits<std::int64_t>::max() / 2;

// The product of sizes that are 0 or more. Throws std::invalid_argument, with `name` and the sizes,
// where it is above `most`.
inline std::int64_t checked_product(const char* name, std::initializer_list<std::int64_t> sizes,
                                    std::int64_t most = kMaxBytes) {
    std::int64_t product = 1;
    bool fits = true;
    for (const std::int64_t size : sizes) {
        fits = fits && size >= 0 && !__builtin_mul_overflow(product, size, &product);
    }
    if (fits && product <= most) return product;
    std::string text;
    for (const std::int64_t size : sizes) {
        text += (text.empty() ? "" : " x ") + std::to_string(size);
    }
    throw std::invalid_argument(std::string(name) + " is " + text + ", more than " +
                                std::to_string(most));
}

}  // namespace icm_fast::cpu
