// First-fit allocation of contiguous token slots in one pool that grows at its end.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace icm_fast::plan {

// Hands out disjoint ranges [offset, offset + size) of token slots. It owns numbers, not memory.
// Not thread-safe.
class RangeAllocator {
  public:
    // Offset of a new range of `size` slots: the lowest hole that holds it, else the pool's end.
    // Throws std::invalid_argument unless size >= 1 and the range ends within 64 bits.
    std::int64_t allocate(std::int64_t size);

    // The same inside [0, limit); empty where no hole is large enough.
    std::optional<std::int64_t> try_allocate(std::int64_t size, std::int64_t limit);

    // Gives back the range that starts at `offset`, and joins it with free neighbours.
    // Throws std::invalid_argument where no live range starts there.
    void release(std::int64_t offset);

    // Highest end ever used, in slots: the size of the pool to reserve.
    [[nodiscard]] std::int64_t capacity() const { return capacity_; }
    // Slots in live ranges now, and the most there ever were.
    [[nodiscard]] std::int64_t live() const { return live_slots_; }
    [[nodiscard]] std::int64_t peak() const { return peak_slots_; }
    // Number of free holes below the capacity; neighbours are always joined.
    [[nodiscard]] std::int64_t holes() const { return static_cast<std::int64_t>(free_.size()); }

    // Empty when live ranges and holes tile [0, capacity) without overlap and no two holes touch;
    // otherwise what is broken, in one line.
    [[nodiscard]] std::string integrity_error() const;

  private:
    using Ranges = std::map<std::int64_t, std::int64_t>;  // offset -> size, in slots

    std::int64_t take_hole(Ranges::iterator hole, std::int64_t size);
    [[nodiscard]] std::int64_t extended_from() const;
    std::int64_t extend(std::int64_t size);

    Ranges live_;
    Ranges free_;
    std::int64_t capacity_ = 0;
    std::int64_t live_slots_ = 0;
    std::int64_t peak_slots_ = 0;
};

}  // namespace icm_fast::plan
