#include "plan/range_allocator.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <stdexcept>

namespace icm_fast::plan {

std::int64_t RangeAllocator::allocate(std::int64_t size) {
    const auto offset = try_allocate(size, std::numeric_limits<std::int64_t>::max());
    if (offset) return *offset;
    throw std::invalid_argument("a range of " + std::to_string(size) + " slots after slot " +
                                std::to_string(extended_from()) + " ends beyond 64 bits");
}

std::optional<std::int64_t> RangeAllocator::try_allocate(std::int64_t size, std::int64_t limit) {
    if (size < 1) {
        throw std::invalid_argument("a range needs 1 slot or more, got " + std::to_string(size));
    }
    const auto hole =
        std::ranges::find_if(free_, [size](const auto& range) { return range.second >= size; });
    const bool has_hole = hole != free_.end();
    const std::int64_t begin = has_hole ? hole->first : extended_from();
    if (size > limit - begin) return std::nullopt;
    const std::int64_t offset = has_hole ? take_hole(hole, size) : extend(size);
    live_.emplace(offset, size);
    live_slots_ += size;
    peak_slots_ = std::max(peak_slots_, live_slots_);
    return offset;
}

std::int64_t RangeAllocator::take_hole(Ranges::iterator hole, std::int64_t size) {
    const auto [offset, free_size] = *hole;
    free_.erase(hole);
    if (free_size > size) free_.emplace(offset + size, free_size - size);
    return offset;
}

// Where a range that no hole holds begins: a hole at the very end is too small by itself, but the
// pool can grow after it.
std::int64_t RangeAllocator::extended_from() const {
    if (free_.empty()) return capacity_;
    const auto last = std::prev(free_.end());
    return last->first + last->second == capacity_ ? last->first : capacity_;
}

std::int64_t RangeAllocator::extend(std::int64_t size) {
    const std::int64_t offset = extended_from();
    if (offset < capacity_) free_.erase(offset);
    capacity_ = offset + size;
    return offset;
}

void RangeAllocator::release(std::int64_t offset) {
    const auto range = live_.find(offset);
    if (range == live_.end()) {
        throw std::invalid_argument("no live range starts at slot " + std::to_string(offset));
    }
    live_slots_ -= range->second;
    auto hole = free_.emplace(offset, range->second).first;
    live_.erase(range);

    const auto after = std::next(hole);
    if (after != free_.end() && hole->first + hole->second == after->first) {
        hole->second += after->second;
        free_.erase(after);
    }
    if (hole == free_.begin()) return;
    const auto before = std::prev(hole);
    if (before->first + before->second == hole->first) {
        before->second += hole->second;
        free_.erase(hole);
    }
}

std::string RangeAllocator::integrity_error() const {
    std::int64_t end = 0;
    std::int64_t live_slots = 0;
    bool after_hole = false;
    auto live = live_.begin();
    auto hole = free_.begin();
    while (live != live_.end() || hole != free_.end()) {
        const bool is_hole =
            live == live_.end() || (hole != free_.end() && hole->first < live->first);
        const auto [offset, size] = is_hole ? *hole++ : *live++;
        if (offset != end) return "ranges do not meet at slot " + std::to_string(end);
        if (size < 1) return "a range at slot " + std::to_string(offset) + " is empty";
        if (is_hole && after_hole) return "two holes touch at slot " + std::to_string(offset);
        after_hole = is_hole;
        live_slots += is_hole ? 0 : size;
        end = offset + size;
    }
    if (end != capacity_) return "ranges end at slot " + std::to_string(end);
    if (live_slots != live_slots_) return "the count of live slots is wrong";
    return live_slots_ <= peak_slots_ ? "" : "the peak lies below the live slots";
}

}  // namespace icm_fast::plan
