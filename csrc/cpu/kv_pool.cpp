#include "cpu/kv_pool.hpp"

#include <stdexcept>
#include <string>

namespace icm_fast::cpu {

namespace {

// Words of one head's keys. Throws unless all of a pool's sizes can be computed with.
std::int64_t words_of_head(const Ops& ops, const KvShape& shape) {
    if (shape.head_dim < 2 || shape.head_dim % 2 != 0 || shape.n_layers < 1 || shape.n_heads < 1 ||
        shape.n_slots < 1) {
        throw std::invalid_argument("a pool needs an even head_dim and positive sizes");
    }
    // As if a word held one value, and with a slot more, which rounding may add.
    constexpr std::int64_t kWordBytes = sizeof(Word);
    checked_product("a pool of n_layers x n_heads x head_dim x n_slots",
                    {shape.n_layers, shape.n_heads, shape.head_dim, shape.n_slots},
                    kMaxBytes / (4 * kWordBytes));
    const std::int64_t per_word = ops.values_per_word;
    const std::int64_t slots = (shape.n_slots + per_word - 1) / per_word * per_word;
    return slots * shape.head_dim / per_word;
}

}  // namespace

KvPool::KvPool(const Ops& ops, const KvShape& shape)
    : ops_(&ops), shape_(shape), head_words_(words_of_head(ops, shape)) {
    const std::int64_t words = shape.n_layers * shape.n_heads * head_words_;
    try {
        keys_.resize(words);
        values_.resize(words);
    } catch (const NoMemory&) {
        throw NoMemory("no memory for a pool of " +
                       std::to_string(2 * words * static_cast<std::int64_t>(sizeof(Word))) +
                       " bytes: " + std::to_string(shape.n_layers) + " layers, " +
                       std::to_string(shape.n_heads) + " heads of " +
                       std::to_string(shape.head_dim) + ", " + std::to_string(shape.n_slots) +
                       " slots");
    }
}

std::int64_t KvPool::n_bytes() const {
    return (keys_.size() + values_.size()) * static_cast<std::int64_t>(sizeof(Word));
}

void KvPool::write(std::int64_t layer, std::int64_t head, std::int64_t slot, const float* key,
                   const float* value) {
    ops_->store(key, shape_.head_dim,
                keys(layer, head) + slot * shape_.head_dim / ops_->values_per_word);
    ops_->store_value(value, shape_.head_dim, slot, values(layer, head));
}

}  // namespace icm_fast::cpu
