// Memory on cache-line boundaries, zeroed, without a value for every element to construct.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "cpu/sizes.hpp"

namespace icm_fast::cpu {

template <typename T>
class AlignedBuffer {
  public:
    AlignedBuffer() = default;
    explicit AlignedBuffer(std::int64_t size) { resize(size); }

    // Zeroes the new memory; what was there before is lost. Throws std::invalid_argument for a size
    // that no memory has, NoMemory where there is none; it is then empty.
    void resize(std::int64_t size) {
        memory_.reset();
        size_ = 0;
        const auto used = static_cast<std::size_t>(
            checked_product("memory in bytes", {size, static_cast<std::int64_t>(sizeof(T))}));
        const std::size_t bytes = (used + kLine - 1) / kLine * kLine;
        if (bytes > 0) {
            memory_.reset(static_cast<T*>(std::aligned_alloc(kLine, bytes)));
            if (!memory_) throw NoMemory("no memory for " + std::to_string(bytes) + " bytes");
            std::memset(static_cast<void*>(memory_.get()), 0, bytes);
        }
        size_ = size;
    }
    // Grows to at least `size`; contents are kept only if it is large enough already.
    void reserve(std::int64_t size) {
        if (size > size_) resize(size);
    }

    [[nodiscard]] T* data() { return memory_.get(); }
    [[nodiscard]] const T* data() const { return memory_.get(); }
    [[nodiscard]] std::int64_t size() const { return size_; }

  private:
    static constexpr std::size_t kLine = 64;
    struct Free {
        // NOLINTNEXTLINE(cppcoreguidelines-no-malloc): what std::aligned_alloc gave.
        void operator()(T* memory) const { std::free(memory); }
    };
    std::unique_ptr<T, Free> memory_;
    std::int64_t size_ = 0;
};

}  // namespace icm_fast::cpu
