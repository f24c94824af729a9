// Keys and values of all live segments: per layer and head one array of token slots.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/aligned_buffer.hpp"
#include "cpu/call_lock.hpp"
#include "cpu/ops.hpp"

namespace icm_fast::cpu {

struct KvShape {
    std::int64_t n_layers;
    std::int64_t n_heads;   // key-value heads
    std::int64_t head_dim;  // even
    std::int64_t n_slots;   // tokens
};

// The plan says which slots a segment has; the pool only holds them. Keys lie as [slot][head_dim],
// values too, but two neighbouring slots interleaved where a word holds two values. Slots that were
// never written are zero. Whoever reads or writes takes a turn of `calls`.
class KvPool {
  public:
    // Throws std::invalid_argument for sizes below 1 or whose product is no number of bytes, and
    // NoMemory.
    KvPool(const Ops& ops, const KvShape& shape);

    [[nodiscard]] const Ops& ops() const { return *ops_; }
    [[nodiscard]] const KvShape& shape() const { return shape_; }
    [[nodiscard]] CallLock& calls() { return calls_; }
    [[nodiscard]] std::int64_t n_bytes() const;
    [[nodiscard]] Word* keys(std::int64_t layer, std::int64_t head) {
        return keys_.data() + (layer * shape_.n_heads + head) * head_words_;
    }
    [[nodiscard]] Word* values(std::int64_t layer, std::int64_t head) {
        return values_.data() + (layer * shape_.n_heads + head) * head_words_;
    }
    // Stores one token's key and value of one head, as float32 [head_dim] each.
    void write(std::int64_t layer, std::int64_t head, std::int64_t slot, const float* key,
               const float* value);

  private:
    const Ops* ops_;
    KvShape shape_;
    std::int64_t head_words_;  // words of one head's keys, all slots
    AlignedBuffer<Word> keys_;
    AlignedBuffer<Word> values_;
    CallLock calls_;
};

}  // namespace icm_fast::cpu
