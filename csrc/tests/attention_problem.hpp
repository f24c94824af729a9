// Attention of random segments over a pool of garbage, and its definition in double precision.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "cpu/kv_pool.hpp"
#include "cpu/ops.hpp"
#include "cpu/tree_attention.hpp"
#include "tests/inputs.hpp"

namespace icm_fast::tests {

// Lengths of a segment's ancestors, root first, and its own.
struct SegmentSizes {
    std::vector<std::int64_t> ancestors;
    std::int64_t own;
};

// What the ancestors' and own ranges of all segments take, in slots that no other segment has.
struct Layout {
    std::vector<cpu::Segment> segments;
    std::int64_t n_tokens = 0;
    std::int64_t n_slots = 0;  // odd
};

// Ranges lie in the pool in another order than in the context, with holes between them.
Layout lay_out(const std::vector<SegmentSizes>& sizes);

// The numbers of a layout's attention.
struct PlainInputs {
    const Floats& query;          // [token][head][head_dim]
    const Floats &keys, &values;  // [slot][kv head][head_dim]
    std::int64_t n_kv_heads, group, head_dim;
};

// One token's output for one head: a softmax over the keys that it sees.
std::vector<double> plain_attention(const PlainInputs& inputs, const cpu::Segment& segment,
                                    std::int64_t token, std::int64_t head,
                                    const cpu::AttentionOptions& options);

class AttentionProblem {
  public:
    static constexpr std::int64_t kKvHeads = 2;

    // Slots that no range holds are filled with `garbage`.
    AttentionProblem(const cpu::Ops& ops, const std::vector<SegmentSizes>& sizes,
                     std::int64_t group, std::int64_t head_dim, float garbage = 1e30F);

    [[nodiscard]] std::int64_t n_heads() const { return group_ * kKvHeads; }
    [[nodiscard]] std::int64_t n_tokens() const { return layout_.n_tokens; }
    [[nodiscard]] const Layout& layout() const { return layout_; }
    [[nodiscard]] const cpu::Ops& ops() const { return ops_; }

    // [token][head][head_dim]; rows for which there is no tile stay NaN.
    Floats run(const cpu::AttentionOptions& options, bool last_only = false);
    // Holds every output of `run` against `plain_attention`.
    void check(const cpu::AttentionOptions& options);
    // Overwrites a token's key and value.
    void write(std::int64_t slot, float key, float value);

  private:
    void fill(float garbage);
    [[nodiscard]] const float* row(const Floats& rows, std::int64_t slot, std::int64_t head) const {
        return rows.data() + (slot * kKvHeads + head) * head_dim_;
    }

    const cpu::Ops& ops_;
    std::int64_t group_, head_dim_;
    Layout layout_;
    Floats query_;          // [token][head][head_dim], as the table rounds it
    Floats keys_, values_;  // [slot][kv head][head_dim]
    cpu::KvPool pool_;
};

}  // namespace icm_fast::tests
