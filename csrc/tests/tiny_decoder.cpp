#include "tests/tiny_decoder.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace icm_fast::tests {
namespace {

// Hands out random weights, each call other ones.
class Weights {
  public:
    explicit Weights(std::int64_t layer) : seed_(static_cast<std::uint64_t>(100 * layer + 50)) {}

    // Sums of n_inputs products come out near 1.
    Floats matrix(std::int64_t n_outputs, std::int64_t n_inputs) {
        return random_floats(n_outputs * n_inputs, ++seed_,
                             2.0F / std::sqrt(static_cast<float>(n_inputs)));
    }
    Floats bias(std::int64_t n) { return random_floats(n, ++seed_, 0.5F); }
    Floats norm(std::int64_t n) {
        Floats weights = random_floats(n, ++seed_, 0.3F);
        for (float& weight : weights) weight += 1.0F;
        return weights;
    }

  private:
    std::uint64_t seed_;
};

void add_optional_parts(TinyLayer& layer, const cpu::DecoderShape& shape, Weights& weights,
                        std::int64_t index) {
    layer.query_bias = weights.bias(shape.n_heads * shape.head_dim);
    layer.key_bias = weights.bias(shape.n_kv_heads * shape.head_dim);
    layer.value_bias = weights.bias(shape.n_kv_heads * shape.head_dim);
    layer.post_attention_norm = weights.norm(shape.hidden);
    layer.post_feed_forward_norm = weights.norm(shape.hidden);
    layer.query_norm = weights.norm(shape.head_dim);
    layer.key_norm = weights.norm(shape.head_dim);
    layer.softcap = 4.0F;
    layer.rotary = index % 2;
    layer.window = index % 2 == 0 ? 16 : 0;
}

}  // namespace

cpu::LayerSource TinyLayer::source() const {
    return {.query = query,
            .key = key,
            .value = value,
            .output = output,
            .gate = gate,
            .up = up,
            .down = down,
            .query_bias = query_bias,
            .key_bias = key_bias,
            .value_bias = value_bias,
            .input_norm = input_norm,
            .post_attention_norm = post_attention_norm,
            .feed_forward_norm = feed_forward_norm,
            .post_feed_forward_norm = post_feed_forward_norm,
            .query_norm = query_norm,
            .key_norm = key_norm,
            .rotary = rotary,
            .window = window,
            .scaling = 0.3F,
            .softcap = softcap};
}

TinyLayer make_layer(const cpu::DecoderShape& shape, Parts parts, std::int64_t index) {
    Weights weights(index);
    const std::int64_t queries = shape.n_heads * shape.head_dim;
    const std::int64_t keys = shape.n_kv_heads * shape.head_dim;
    TinyLayer layer;
    layer.query = weights.matrix(queries, shape.hidden);
    layer.key = weights.matrix(keys, shape.hidden);
    layer.value = weights.matrix(keys, shape.hidden);
    layer.output = weights.matrix(shape.hidden, queries);
    layer.gate = weights.matrix(shape.intermediate, shape.hidden);
    layer.up = weights.matrix(shape.intermediate, shape.hidden);
    layer.down = weights.matrix(shape.hidden, shape.intermediate);
    layer.input_norm = weights.norm(shape.hidden);
    layer.feed_forward_norm = weights.norm(shape.hidden);
    if (parts == Parts::kAll) add_optional_parts(layer, shape, weights, index);
    return layer;
}

// Two tables: one turns whole heads, the other a part of them.
std::vector<cpu::RotaryTable> make_rotary(const cpu::DecoderShape& shape,
                                          std::int64_t n_positions) {
    std::vector<cpu::RotaryTable> tables;
    for (const std::int64_t half : {shape.head_dim / 2, shape.head_dim / 2 - 1}) {
        cpu::RotaryTable table{.half = half, .n_positions = n_positions, .cosine = {}, .sine = {}};
        for (std::int64_t at = 0; at < n_positions * half; ++at) {
            const std::int64_t position = at / half;
            const auto angle = static_cast<float>(position) / static_cast<float>(1 + at % half);
            table.cosine.push_back(std::cos(angle));
            table.sine.push_back(std::sin(angle));
        }
        tables.push_back(std::move(table));
    }
    return tables;
}

std::unique_ptr<cpu::Decoder> make_decoder(const cpu::Ops& ops, const cpu::DecoderShape& shape,
                                           Parts parts, std::int32_t n_threads,
                                           const cpu::Int8Ops* int8) {
    auto decoder = std::make_unique<cpu::Decoder>(ops, int8, shape, n_threads);
    for (std::int64_t k = 0; k < shape.n_layers; ++k) {
        decoder->add_layer(make_layer(shape, parts, k).source());
    }
    return decoder;
}

// Deep and shallow, one token and more rows than one thread takes at a time.
TinyTree::TinyTree() {
    const std::vector<std::pair<std::int64_t, std::int64_t>> sizes = {
        {-1, 20}, {0, 7}, {0, 1}, {1, 33}, {1, 1}, {2, 12}, {-1, 150}, {6, 2}, {3, 5}};
    for (const auto& [parent, n_tokens] : sizes) {
        nodes_.push_back({parent, n_tokens, n_slots_});
        n_slots_ += n_tokens + 1;  // a hole
    }
}

std::vector<std::int64_t> TinyTree::path(std::int64_t node) const {
    std::vector<std::int64_t> nodes;
    for (std::int64_t at = node; at >= 0; at = nodes_[to_size(at)].parent) nodes.push_back(at);
    std::ranges::reverse(nodes);
    return nodes;
}

cpu::Segment TinyTree::segment(std::int64_t node, std::int64_t begin) const {
    cpu::Segment segment{begin, begin + nodes_[to_size(node)].n_tokens, 0, {}};
    std::int64_t position = 0;
    for (const std::int64_t at : path(node)) {
        const Node& part = nodes_[to_size(at)];
        segment.start = position;
        segment.ranges.push_back({part.slot, part.n_tokens, position});
        position += part.n_tokens;
    }
    return segment;
}

Floats TinyTree::context(std::int64_t node, std::int64_t hidden) const {
    return embeddings(batch(path(node)), hidden);
}

cpu::Batch TinyTree::batch(const std::vector<std::int64_t>& segments) const {
    cpu::Batch batch;
    for (const std::int64_t node : segments) {
        batch.segments.push_back(segment(node, batch.n_tokens));
        batch.wanted.push_back(1);
        batch.n_tokens = batch.segments.back().end;
    }
    return batch;
}

Floats TinyTree::embeddings(const cpu::Batch& batch, std::int64_t hidden) {
    Floats rows;
    for (const cpu::Segment& segment : batch.segments) {
        const auto seed = static_cast<std::uint64_t>(1000 + segment.ranges.back().slot);
        const Floats own = random_floats((segment.end - segment.begin) * hidden, seed);
        rows.insert(rows.end(), own.begin(), own.end());
    }
    return rows;
}

Floats run_tree(cpu::Decoder& decoder, const TinyTree& tree,
                const std::vector<std::vector<std::int64_t>>& batches) {
    const std::int64_t hidden = decoder.shape().hidden;
    cpu::KvPool pool(decoder.ops(), decoder.kv_shape(tree.n_slots()));
    const auto rotary = make_rotary(decoder.shape(), TinyTree::kPositions);
    Floats states(to_size(tree.n_segments() * hidden), kNan);
    for (const std::vector<std::int64_t>& segments : batches) {
        const cpu::Batch batch = tree.batch(segments);
        Floats out(to_size(static_cast<std::int64_t>(segments.size()) * hidden), kNan);
        decoder.forward(batch, TinyTree::embeddings(batch, hidden), rotary, pool, out);
        for (std::size_t k = 0; k < segments.size(); ++k) {
            std::copy_n(out.data() + k * to_size(hidden), hidden,
                        states.data() + segments[k] * hidden);
        }
    }
    return states;
}

}  // namespace icm_fast::tests
