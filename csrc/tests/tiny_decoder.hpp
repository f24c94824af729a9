// A random decoder, and a small tree of segments to run through it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/decoder.hpp"
#include "tests/inputs.hpp"

namespace icm_fast::tests {

// Sizes that fit no vector.
inline constexpr cpu::DecoderShape kAwkward = {.hidden = 36,
                                               .intermediate = 50,
                                               .n_heads = 6,
                                               .n_kv_heads = 2,
                                               .head_dim = 12,
                                               .n_layers = 2,
                                               .norm_eps = 1e-6F,
                                               .activation = cpu::Activation::kSilu};
// More heads than one chunk of projections, more units than two chunks of the feed-forward layer.
inline constexpr cpu::DecoderShape kWide = {.hidden = 64,
                                            .intermediate = 1100,
                                            .n_heads = 9,
                                            .n_kv_heads = 3,
                                            .head_dim = 64,
                                            .n_layers = 2,
                                            .norm_eps = 1e-6F,
                                            .activation = cpu::Activation::kGeluTanh};

// One layer's weights.
struct TinyLayer {
    Floats query, key, value, output, gate, up, down;
    Floats query_bias, key_bias, value_bias;
    Floats input_norm, post_attention_norm, feed_forward_norm, post_feed_forward_norm;
    Floats query_norm, key_norm;
    std::int64_t rotary = 0;
    std::int64_t window = 0;
    float softcap = 0.0F;

    // Borrows the weights.
    [[nodiscard]] cpu::LayerSource source() const;
};

// With all that a layer can have, or with as little as it can.
enum class Parts { kFewest, kAll };

TinyLayer make_layer(const cpu::DecoderShape& shape, Parts parts, std::int64_t index);
std::vector<cpu::RotaryTable> make_rotary(const cpu::DecoderShape& shape, std::int64_t n_positions);
std::unique_ptr<cpu::Decoder> make_decoder(const cpu::Ops& ops, const cpu::DecoderShape& shape,
                                           Parts parts, std::int32_t n_threads,
                                           const cpu::Int8Ops* int8 = nullptr);

// Segments of a tree with their pool slots.
class TinyTree {
  public:
    static constexpr std::int64_t kPositions = 250;

    TinyTree();
    [[nodiscard]] std::int64_t n_segments() const {
        return static_cast<std::int64_t>(nodes_.size());
    }
    [[nodiscard]] std::int64_t n_slots() const { return n_slots_; }
    // A batch of the segments, in the order given; all are wanted.
    [[nodiscard]] cpu::Batch batch(const std::vector<std::int64_t>& segments) const;
    // [n_tokens][hidden]: each segment's own numbers.
    [[nodiscard]] static Floats embeddings(const cpu::Batch& batch, std::int64_t hidden);
    // The same for a segment behind all its ancestors.
    [[nodiscard]] Floats context(std::int64_t node, std::int64_t hidden) const;

  private:
    struct Node {
        std::int64_t parent;
        std::int64_t n_tokens;
        std::int64_t slot;
    };
    // From the root to the node.
    [[nodiscard]] std::vector<std::int64_t> path(std::int64_t node) const;
    [[nodiscard]] cpu::Segment segment(std::int64_t node, std::int64_t begin) const;

    std::vector<Node> nodes_;
    std::int64_t n_slots_ = 0;
};

// Runs batches of the tree one after the other: [segment][hidden], in the segments' own order.
Floats run_tree(cpu::Decoder& decoder, const TinyTree& tree,
                const std::vector<std::vector<std::int64_t>>& batches);

}  // namespace icm_fast::tests
