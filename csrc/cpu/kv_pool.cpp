#include "cpu/kv_pool.hpp"

namespace icm_fast::cpu {

KvPool::KvPool(const Ops& ops, const KvShape& shape) : ops_(&ops), shape_(shape) {
    const std::int64_t per_word = ops.values_per_word;
    const std::int64_t slots = (shape.n_slots + per_word - 1) / per_word * per_word;
    head_words_ = slots * shape.head_dim / per_word;
    keys_.resize(shape.n_layers * shape.n_heads * head_words_);
    values_.resize(shape.n_layers * shape.n_heads * head_words_);
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
