#include "tests/plain_decoder.hpp"

#include <algorithm>
#include <cmath>

namespace icm_fast::tests {
namespace {

Doubles product(const Floats& matrix, const Doubles& x, const Floats& bias = {}) {
    Doubles out(bias.begin(), bias.end());
    out.resize(matrix.size() / x.size(), 0.0);
    for (std::size_t row = 0; row < out.size(); ++row) {
        const float* weights = matrix.data() + row * x.size();
        for (std::size_t k = 0; k < x.size(); ++k) out[row] += weights[k] * x[k];
    }
    return out;
}

// No weight: no norm.
void norm(std::span<double> x, const Floats& weight, double eps) {
    if (weight.empty()) return;
    double squares = 0.0;
    for (const double value : x) squares += value * value;
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + eps);
    for (std::size_t k = 0; k < x.size(); ++k) x[k] *= factor * weight[k];
}

Doubles normed(Doubles x, const Floats& weight, double eps) {
    norm(x, weight, eps);
    return x;
}

void add(Doubles& to, const Doubles& x) {
    for (std::size_t k = 0; k < to.size(); ++k) to[k] += x[k];
}

double activate(cpu::Activation activation, double x) {
    if (activation == cpu::Activation::kSilu) return x / (1.0 + std::exp(-x));
    const double z = std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
    return 0.5 * x * (1.0 + std::tanh(z));
}

}  // namespace

PlainDecoder::PlainDecoder(const cpu::DecoderShape& shape, Parts parts)
    : shape_(shape), rotary_(make_rotary(shape, TinyTree::kPositions)) {
    for (std::int64_t k = 0; k < shape.n_layers; ++k) {
        layers_.push_back(make_layer(shape, parts, k));
    }
}

void PlainDecoder::place(Doubles& heads, const Floats& weight, const TinyLayer& layer,
                         std::size_t position) const {
    const cpu::RotaryTable& table = rotary_[to_size(layer.rotary)];
    const std::size_t dim = to_size(shape_.head_dim);
    const std::size_t half = to_size(table.half);
    for (std::size_t first = 0; first < heads.size(); first += dim) {
        const std::span<double> x(heads.data() + first, dim);
        norm(x, weight, shape_.norm_eps);
        for (std::size_t k = 0; k < half; ++k) {
            const double c = table.cosine[position * half + k];
            const double s = table.sine[position * half + k];
            const double a = x[k];
            const double b = x[k + half];
            x[k] = a * c - b * s;
            x[k + half] = b * c + a * s;
        }
    }
}

PlainDecoder::Heads PlainDecoder::project(const TinyLayer& layer,
                                          const std::vector<Doubles>& states) const {
    Heads heads;
    for (std::size_t token = 0; token < states.size(); ++token) {
        const Doubles x = normed(states[token], layer.input_norm, shape_.norm_eps);
        heads.queries.push_back(product(layer.query, x, layer.query_bias));
        heads.keys.push_back(product(layer.key, x, layer.key_bias));
        heads.values.push_back(product(layer.value, x, layer.value_bias));
        place(heads.queries.back(), layer.query_norm, layer, token);
        place(heads.keys.back(), layer.key_norm, layer, token);
    }
    return heads;
}

Doubles PlainDecoder::attend(const TinyLayer& layer, const Heads& heads, std::size_t token) const {
    const std::size_t dim = to_size(shape_.head_dim);
    const std::size_t group = to_size(shape_.n_heads / shape_.n_kv_heads);
    const std::size_t window = to_size(layer.window);
    const std::size_t first = window > 0 && token >= window ? token - window + 1 : 0;
    const double scaling = layer.source().scaling;
    Doubles out(heads.queries[token].size(), 0.0);
    for (std::size_t head = 0; head < to_size(shape_.n_heads); ++head) {
        double* to = out.data() + head * dim;
        double total = 0.0;
        for (std::size_t key = first; key <= token; ++key) {
            double score = 0.0;
            for (std::size_t d = 0; d < dim; ++d) {
                score += heads.queries[token][head * dim + d] *
                         heads.keys[key][head / group * dim + d] * scaling;
            }
            if (layer.softcap > 0.0F) score = layer.softcap * std::tanh(score / layer.softcap);
            const double weight = std::exp(score);
            total += weight;
            for (std::size_t d = 0; d < dim; ++d) {
                to[d] += weight * heads.values[key][head / group * dim + d];
            }
        }
        for (std::size_t d = 0; d < dim; ++d) to[d] /= total;
    }
    return out;
}

Doubles PlainDecoder::feed_forward(const TinyLayer& layer, const Doubles& state) const {
    const Doubles x = normed(state, layer.feed_forward_norm, shape_.norm_eps);
    Doubles units = product(layer.gate, x);
    const Doubles up = product(layer.up, x);
    for (std::size_t k = 0; k < units.size(); ++k) {
        units[k] = activate(shape_.activation, units[k]) * up[k];
    }
    return normed(product(layer.down, units), layer.post_feed_forward_norm, shape_.norm_eps);
}

Doubles PlainDecoder::last_state(std::span<const float> embeddings) const {
    const std::size_t hidden = to_size(shape_.hidden);
    std::vector<Doubles> states;
    for (std::size_t at = 0; at < embeddings.size(); at += hidden) {
        const auto row = embeddings.subspan(at, hidden);
        states.emplace_back(row.begin(), row.end());
    }
    for (const TinyLayer& layer : layers_) {
        const Heads heads = project(layer, states);
        for (std::size_t token = 0; token < states.size(); ++token) {
            const Doubles attended = product(layer.output, attend(layer, heads, token));
            add(states[token], normed(attended, layer.post_attention_norm, shape_.norm_eps));
            add(states[token], feed_forward(layer, states[token]));
        }
    }
    return states.back();
}

}  // namespace icm_fast::tests
