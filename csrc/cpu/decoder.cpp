#include "cpu/decoder.hpp"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

namespace icm_fast::cpu {
namespace {

// Rows that one thread takes through a layer at a time. Enough to make reading the weights cheap,
// few enough that what happens in between stays in the second-level cache.
constexpr std::int64_t kRowTile = 96;
// Outputs of the projections, and units of the feed-forward layer, made at a time.
constexpr std::int64_t kOutputChunk = 512;
constexpr std::int64_t kUnitChunk = 512;
// Far above any model, and no product of two sizes and a chunk overflows.
constexpr std::int64_t kMaxWidth = std::int64_t{1} << 24;
constexpr std::int64_t kGateUnits = kPanelColumns / 2;
static_assert(kUnitChunk % kInt8Group == 0);

std::int64_t round_up(std::int64_t value, std::int64_t step) {
    return (value + step - 1) / step * step;
}

void require(bool holds, const std::string& message) {
    if (!holds) throw std::invalid_argument(message);
}

void check_size(const char* name, std::span<const float> values, std::int64_t size, bool optional) {
    if (optional && values.empty()) return;
    require(static_cast<std::int64_t>(values.size()) == size,
            std::string(name) + " has " + std::to_string(values.size()) + " values, expected " +
                std::to_string(size));
}

std::vector<float> copy(std::span<const float> values) { return {values.begin(), values.end()}; }

void append_rows(std::vector<const float*>& rows, std::span<const float> matrix,
                 std::int64_t n_inputs) {
    for (std::size_t at = 0; at < matrix.size(); at += static_cast<std::size_t>(n_inputs)) {
        rows.push_back(matrix.data() + at);
    }
}

// Panels of 16 gate rows and the 16 up rows that belong to them.
std::vector<const float*> interleave(std::span<const float> gate, std::span<const float> up,
                                     std::int64_t n_units, std::int64_t n_inputs) {
    std::vector<const float*> rows;
    const auto row = [&](std::span<const float> matrix, std::int64_t unit) {
        return unit < n_units ? matrix.data() + unit * n_inputs : nullptr;
    };
    for (std::int64_t first = 0; first < n_units; first += kGateUnits) {
        for (std::int64_t k = 0; k < kGateUnits; ++k) rows.push_back(row(gate, first + k));
        for (std::int64_t k = 0; k < kGateUnits; ++k) rows.push_back(row(up, first + k));
    }
    return rows;
}

void check_width(const char* name, std::int64_t value) {
    require(value <= kMaxWidth, std::string(name) + " is " + std::to_string(value) +
                                    ", more than " + std::to_string(kMaxWidth));
}

DecoderShape checked(const DecoderShape& s) {
    require(s.hidden > 0 && s.hidden % 2 == 0, "hidden must be even and positive");
    require(s.head_dim > 0 && s.head_dim % 2 == 0, "head_dim must be even and positive");
    require(s.intermediate > 0 && s.n_layers > 0, "intermediate and n_layers must be positive");
    require(s.n_kv_heads > 0 && s.n_heads > 0 && s.n_heads % s.n_kv_heads == 0,
            "n_heads must be a positive multiple of n_kv_heads");
    check_width("hidden", s.hidden);
    check_width("intermediate", s.intermediate);
    check_width("n_layers", s.n_layers);
    check_width("n_heads", s.n_heads);
    check_width("head_dim", s.head_dim);
    checked_product("n_heads x head_dim", {s.n_heads, s.head_dim}, kMaxWidth);
    return s;
}

}  // namespace

Decoder::Decoder(const Ops& ops, const Int8Ops* int8, const DecoderShape& shape,
                 std::int32_t n_threads)
    : ops_(&ops),
      int8_(int8),
      shape_(checked(shape)),
      padded_hidden_(round_up(shape.hidden, kPanelColumns)),
      padded_intermediate_(round_up(shape.intermediate, kGateUnits)),
      hidden_words_(shape.hidden / ops.values_per_word),
      threads_(std::max(n_threads, 1)),
      state_(std::make_unique<State>()) {
    // Chunks of projections end both with a head and with a panel.
    const std::int64_t unit = std::lcm(shape.head_dim, kPanelColumns);
    head_chunk_ = std::max<std::int64_t>(kOutputChunk / unit, 1) * unit / shape.head_dim;
    scratch_.resize(static_cast<std::size_t>(threads_.size()));
    const std::int64_t widest =
        std::max(round_up(head_chunk_ * shape.head_dim, kPanelColumns), 2 * kUnitChunk);
    for (Scratch& scratch : scratch_) {
        scratch.normed.resize(kRowTile * hidden_words_);
        scratch.activation.resize(kRowTile * kUnitChunk / ops.values_per_word);
        scratch.product.resize(kRowTile * widest);
        scratch.sum.resize(kRowTile * padded_hidden_);
        scratch.attention.resize(attend_scratch_floats(shape.head_dim));
        if (int8 == nullptr) continue;
        const std::int64_t inputs = std::max(shape.hidden, shape.n_heads * shape.head_dim);
        for (const auto& [bytes, n_values] :
             {std::pair{&scratch.inputs, inputs}, std::pair{&scratch.units, kUnitChunk}}) {
            bytes->words.resize(kRowTile * int8_words(n_values));
            bytes->scales.resize(kRowTile * int8_groups(n_values));
        }
        scratch.row.resize(std::max(inputs, kUnitChunk));
    }
}

void Decoder::add_layer(const LayerSource& source) {
    const CallLock::Turn turn(calls_);
    const DecoderShape& s = shape_;
    const std::int64_t queries = s.n_heads * s.head_dim;
    const std::int64_t keys = s.n_kv_heads * s.head_dim;
    require(static_cast<std::int64_t>(layers_.size()) < s.n_layers, "more layers than n_layers");
    check_size("query", source.query, queries * s.hidden, false);
    check_size("key", source.key, keys * s.hidden, false);
    check_size("value", source.value, keys * s.hidden, false);
    check_size("output", source.output, s.hidden * queries, false);
    check_size("gate", source.gate, s.intermediate * s.hidden, false);
    check_size("up", source.up, s.intermediate * s.hidden, false);
    check_size("down", source.down, s.hidden * s.intermediate, false);
    check_size("query_bias", source.query_bias, queries, true);
    check_size("key_bias", source.key_bias, keys, true);
    check_size("value_bias", source.value_bias, keys, true);
    check_size("input_norm", source.input_norm, s.hidden, false);
    check_size("post_attention_norm", source.post_attention_norm, s.hidden, true);
    check_size("feed_forward_norm", source.feed_forward_norm, s.hidden, false);
    check_size("post_feed_forward_norm", source.post_feed_forward_norm, s.hidden, true);
    check_size("query_norm", source.query_norm, s.head_dim, true);
    check_size("key_norm", source.key_norm, s.head_dim, true);
    require(source.query_bias.empty() == source.key_bias.empty() &&
                source.key_bias.empty() == source.value_bias.empty(),
            "query, key and value must all have a bias or none");

    std::vector<const float*> projections;
    append_rows(projections, source.query, s.hidden);
    append_rows(projections, source.key, s.hidden);
    append_rows(projections, source.value, s.hidden);
    std::vector<const float*> output;
    append_rows(output, source.output, queries);
    std::vector<const float*> down;
    append_rows(down, source.down, s.intermediate);
    const auto linear = [&](const std::vector<const float*>& rows, std::int64_t n_inputs) {
        return Linear(*ops_, int8_, rows, n_inputs, n_inputs);
    };
    Layer layer{
        .query_key_value = linear(projections, s.hidden),
        .output = linear(output, queries),
        .gate_up = linear(interleave(source.gate, source.up, s.intermediate, s.hidden), s.hidden),
        .down = Linear(*ops_, int8_, down, s.intermediate, padded_intermediate_),
        .bias = copy(source.query_bias),
        .input_norm = copy(source.input_norm),
        .post_attention_norm = copy(source.post_attention_norm),
        .feed_forward_norm = copy(source.feed_forward_norm),
        .post_feed_forward_norm = copy(source.post_feed_forward_norm),
        .query_norm = copy(source.query_norm),
        .key_norm = copy(source.key_norm),
        .rotary = source.rotary,
        .window = source.window,
        .scaling = source.scaling,
        .softcap = source.softcap,
    };
    layer.bias.insert(layer.bias.end(), source.key_bias.begin(), source.key_bias.end());
    layer.bias.insert(layer.bias.end(), source.value_bias.begin(), source.value_bias.end());
    layers_.push_back(std::move(layer));
}

std::int64_t Decoder::n_weight_bytes() const {
    const CallLock::Turn turn(calls_);
    std::int64_t bytes = 0;
    for (const Layer& layer : layers_) {
        for (const Linear* linear :
             {&layer.query_key_value, &layer.output, &layer.gate_up, &layer.down}) {
            bytes += linear->n_bytes();
        }
    }
    return bytes;
}

// ---- One batch ----------------------------------------------------------------------------------

// What a call that a fork cut off has left is not even freed: it may be half changed.
void Decoder::renew_state() {
    auto state = std::make_unique<State>();
    abandon(state_);
    state_ = std::move(state);
}

Decoder::~Decoder() {
    if (calls_.is_cut_off()) abandon(state_);
}

std::int64_t n_wanted_rows(const Batch& batch) {
    std::int64_t n = 0;
    for (std::size_t s = 0; s < batch.segments.size(); ++s) {
        const Segment& segment = batch.segments[s];
        n += batch.wanted[s] == kAll ? segment.end - segment.begin : batch.wanted[s];
    }
    return n;
}

void Decoder::check(const Batch& batch, std::span<const float> embeddings,
                    std::span<const RotaryTable> rotary, const KvPool& pool,
                    std::span<float> out) const {
    require(static_cast<std::int64_t>(layers_.size()) == shape_.n_layers,
            "the decoder has " + std::to_string(layers_.size()) + " of " +
                std::to_string(shape_.n_layers) + " layers");
    require(batch.wanted.size() == batch.segments.size(), "wanted needs one entry per segment");
    require(static_cast<std::int64_t>(embeddings.size()) ==
                checked_product("embeddings", {batch.n_tokens, shape_.hidden}),
            "embeddings must be [n_tokens, hidden]");
    require(std::ranges::all_of(batch.wanted, [](auto w) { return w <= kAll; }),
            "wanted must be 0 (none), 1 (last) or 2 (all)");
    const KvShape& kv = pool.shape();
    require(kv.n_layers == shape_.n_layers && kv.n_heads == shape_.n_kv_heads &&
                kv.head_dim == shape_.head_dim && pool.ops().format == ops_->format,
            "the pool was made for another model");
    for (const RotaryTable& table : rotary) {
        require(2 * table.half <= shape_.head_dim,
                "rotary tables must be [n_positions, half] each");
    }
    check_segments(batch, rotary, kv);
    require(static_cast<std::int64_t>(out.size()) == n_wanted_rows(batch) * shape_.hidden,
            "out must be [n_wanted, hidden]");
    for (const Layer& layer : layers_) {
        require(layer.rotary >= 0 && layer.rotary < static_cast<std::int64_t>(rotary.size()),
                "a layer names a rotary table that is not there");
    }
}

void Decoder::check_segments(const Batch& batch, std::span<const RotaryTable> rotary,
                             const KvShape& kv) {
    std::int64_t row = 0;
    for (const Segment& segment : batch.segments) {
        require(segment.begin == row && segment.end > row, "segments must touch and not be empty");
        row = segment.end;
        require(!segment.ranges.empty(), "a segment needs its own range");
        std::int64_t position = 0;
        for (const KeyRange& range : segment.ranges) {
            require(range.slot >= 0 && range.count > 0 && range.count <= kv.n_slots - range.slot,
                    "a range is outside the pool");
            require(range.position == position, "ranges must follow each other");
            position += range.count;
        }
        require(segment.ranges.back().position == segment.start &&
                    segment.ranges.back().count == segment.end - segment.begin,
                "the last range must be the segment's own");
        for (const RotaryTable& table : rotary) {
            require(position <= table.n_positions, "a position is outside the rotary tables");
        }
    }
    require(row == batch.n_tokens, "segments must cover all rows");
}

void Decoder::prepare(const Batch& batch, std::span<const float> embeddings) {
    const std::int64_t n = batch.n_tokens;
    state_->residual.reserve(n * padded_hidden_);
    state_->query.reserve(n * attention_words());
    state_->attended.reserve(n * attention_words());
    for (std::int64_t row = 0; row < n; ++row) {
        float* to = state_->residual.data() + row * padded_hidden_;
        std::copy_n(embeddings.data() + row * shape_.hidden, shape_.hidden, to);
        std::fill(to + shape_.hidden, to + padded_hidden_, 0.0F);
    }
    state_->positions.resize(static_cast<std::size_t>(n));
    state_->slots.resize(static_cast<std::size_t>(n));
    state_->wanted_rows.clear();
    for (std::size_t s = 0; s < batch.segments.size(); ++s) {
        const Segment& segment = batch.segments[s];
        for (std::int64_t row = segment.begin; row < segment.end; ++row) {
            const auto at = static_cast<std::size_t>(row);
            state_->positions[at] = segment.start + row - segment.begin;
            state_->slots[at] = segment.ranges.back().slot + row - segment.begin;
        }
        if (batch.wanted[s] == kLast) state_->wanted_rows.push_back(segment.end - 1);
        if (batch.wanted[s] != kAll) continue;
        for (std::int64_t row = segment.begin; row < segment.end; ++row) {
            state_->wanted_rows.push_back(row);
        }
    }
    const AttentionShape shape{shape_.n_heads, shape_.n_kv_heads, shape_.head_dim};
    state_->tiles = make_tiles(*ops_, batch.segments, shape, false);
    state_->last_tiles = make_tiles(*ops_, batch.segments, shape, true);
    const auto wants = [&](const AttentionTile& tile, Wanted what) {
        return batch.wanted[static_cast<std::size_t>(tile.segment)] == what;
    };
    std::erase_if(state_->last_tiles, [&](const auto& tile) { return !wants(tile, kLast); });
    std::ranges::copy_if(state_->tiles, std::back_inserter(state_->last_tiles),
                         [&](const auto& tile) { return wants(tile, kAll); });
    const auto n_wanted = static_cast<std::int64_t>(state_->wanted_rows.size());
    state_->last.reserve(n_wanted * padded_hidden_);
    state_->last_attended.reserve(n_wanted * attention_words());
}

void Decoder::forward(const Batch& batch, std::span<const float> embeddings,
                      std::span<const RotaryTable> rotary, KvPool& pool, std::span<float> out) {
    const CallLock::Turn turn(calls_, [this] { renew_state(); });
    const CallLock::Turn pool_turn(pool.calls());
    check(batch, embeddings, rotary, pool, out);
    prepare(batch, embeddings);
    state_->rotary = rotary;
    state_->row_tickets.reset();
    state_->tile_tickets.reset();
    threads_.run([&](std::int32_t thread) { run_thread(thread, batch, pool); });
    for (std::size_t i = 0; i < state_->wanted_rows.size(); ++i) {
        const auto row = static_cast<std::int64_t>(i);
        std::copy_n(state_->last.data() + row * padded_hidden_, shape_.hidden,
                    out.data() + row * shape_.hidden);
    }
}

// Between barriers, every row goes from one attention to the next: what lies in between needs no
// other row. The last layer ends with the wanted rows alone.
void Decoder::run_thread(std::int32_t thread, const Batch& batch, KvPool& pool) {
    Scratch& scratch = scratch_[static_cast<std::size_t>(thread)];
    const std::int64_t n_layers = shape_.n_layers;
    for (std::int64_t layer = 0; layer < n_layers; ++layer) {
        if (thread == 0) state_->tile_tickets.reset();
        for_row_tiles(batch.n_tokens, [&](Rows rows) {
            if (layer > 0) {
                finish_layer(layers_[static_cast<std::size_t>(layer - 1)], rows,
                             state_->residual.data() + rows.begin * padded_hidden_,
                             state_->attended.data() + rows.begin * attention_words(), scratch);
            }
            project(layer, rows, pool, scratch);
        });
        threads_.synchronize();
        if (thread == 0) state_->row_tickets.reset();
        const bool is_last = layer + 1 == n_layers;
        attend(thread, layer, batch, pool, is_last ? state_->last_tiles : state_->tiles);
        threads_.synchronize();
    }
    if (thread == 0) gather_wanted();
    threads_.synchronize();
    for_row_tiles(static_cast<std::int64_t>(state_->wanted_rows.size()), [&](Rows rows) {
        finish_layer(layers_.back(), rows, state_->last.data() + rows.begin * padded_hidden_,
                     state_->last_attended.data() + rows.begin * attention_words(), scratch);
    });
}

void Decoder::gather_wanted() {
    for (std::size_t i = 0; i < state_->wanted_rows.size(); ++i) {
        const auto to = static_cast<std::int64_t>(i);
        const std::int64_t row = state_->wanted_rows[i];
        std::copy_n(state_->residual.data() + row * padded_hidden_, padded_hidden_,
                    state_->last.data() + to * padded_hidden_);
        std::copy_n(state_->attended.data() + row * attention_words(), attention_words(),
                    state_->last_attended.data() + to * attention_words());
    }
}

// Hands out tiles of equal size, as many as make every thread equally busy.
template <typename Work>
void Decoder::for_row_tiles(std::int64_t n_rows, const Work& work) {
    if (n_rows == 0) return;
    const std::int64_t n_threads = threads_.size();
    const std::int64_t rounds = (n_rows + n_threads * kRowTile - 1) / (n_threads * kRowTile);
    const std::int64_t n_tiles = std::min(n_rows, rounds * n_threads);
    for (std::int64_t tile = state_->row_tickets.take(); tile < n_tiles;
         tile = state_->row_tickets.take()) {
        work(Rows{tile * n_rows / n_tiles, (tile + 1) * n_rows / n_tiles});
    }
}

void Decoder::attend(std::int32_t thread, std::int64_t layer, const Batch& batch, KvPool& pool,
                     std::span<const AttentionTile> tiles) {
    const Layer& weights = layers_[static_cast<std::size_t>(layer)];
    const AttentionShape shape{shape_.n_heads, shape_.n_kv_heads, shape_.head_dim};
    const AttentionOptions options{
        .scaling = weights.scaling, .softcap = weights.softcap, .window = weights.window};
    float* scratch = scratch_[static_cast<std::size_t>(thread)].attention.data();
    const auto n_tiles = static_cast<std::int64_t>(tiles.size());
    for (std::int64_t t = state_->tile_tickets.take(); t < n_tiles;
         t = state_->tile_tickets.take()) {
        const AttentionTile& tile = tiles[static_cast<std::size_t>(t)];
        attend_tile(*ops_, tile, batch.segments[static_cast<std::size_t>(tile.segment)], shape,
                    options, state_->query.data(), pool, layer, state_->attended.data(), scratch);
    }
}

// ---- What happens to rows -----------------------------------------------------------------------

// Rows of words side by side, in the form that the linear layers take.
LinearInput Decoder::linear_input(const Word* words, std::int64_t n_values, std::int64_t n_rows,
                                  Bytes& bytes, Scratch& scratch) const {
    const std::int64_t stride = n_values / ops_->values_per_word;
    if (int8_ == nullptr) return {words, stride, n_rows, nullptr, 0};
    const std::int64_t n_words = int8_words(n_values);
    const std::int64_t n_scales = int8_groups(n_values);
    for (std::int64_t row = 0; row < n_rows; ++row) {
        ops_->load(words + row * stride, n_values, scratch.row.data());
        int8_->quantize(scratch.row.data(), n_values, bytes.words.data() + row * n_words,
                        bytes.scales.data() + row * n_scales);
    }
    return {bytes.words.data(), n_words, n_rows, bytes.scales.data(), n_scales};
}

void Decoder::norm_rows(const std::vector<float>& weight, const float* residual,
                        std::int64_t n_rows, Scratch& scratch) {
    for (std::int64_t row = 0; row < n_rows; ++row) {
        ops_->norm(residual + row * padded_hidden_, weight.data(), shape_.norm_eps, shape_.hidden,
                   scratch.normed.data() + row * hidden_words_);
    }
}

// Queries, keys and values of some rows, into the query buffer and the pool.
void Decoder::project(std::int64_t layer, Rows rows, KvPool& pool, Scratch& scratch) {
    const Layer& weights = layers_[static_cast<std::size_t>(layer)];
    const std::int64_t n_rows = rows.end - rows.begin;
    norm_rows(weights.input_norm, state_->residual.data() + rows.begin * padded_hidden_, n_rows,
              scratch);
    const LinearInput input =
        linear_input(scratch.normed.data(), shape_.hidden, n_rows, scratch.inputs, scratch);
    const std::int64_t n_heads = shape_.n_heads + 2 * shape_.n_kv_heads;
    for (std::int64_t first_head = 0; first_head < n_heads; first_head += head_chunk_) {
        const std::int64_t n_chunk = std::min(head_chunk_, n_heads - first_head);
        const std::int64_t panel = first_head * shape_.head_dim / kPanelColumns;
        const std::int64_t n_panels =
            (n_chunk * shape_.head_dim + kPanelColumns - 1) / kPanelColumns;
        weights.query_key_value.multiply(input, panel, n_panels, 0, shape_.hidden,
                                         {.values = scratch.product.data(),
                                          .stride = n_panels * kPanelColumns,
                                          .accumulate = false});
        place_heads(layer, rows, first_head, n_chunk, pool, scratch);
    }
}

void Decoder::place_heads(std::int64_t layer, Rows rows, std::int64_t first_head,
                          std::int64_t n_heads, KvPool& pool, Scratch& scratch) {
    const Layer& weights = layers_[static_cast<std::size_t>(layer)];
    const RotaryTable& rotary = state_->rotary[static_cast<std::size_t>(weights.rotary)];
    const std::int64_t dim = shape_.head_dim;
    const std::int64_t dim_words = dim / ops_->values_per_word;
    const std::int64_t stride = round_up(n_heads * dim, kPanelColumns);
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
        const std::int64_t position = state_->positions[static_cast<std::size_t>(row)];
        const std::int64_t slot = state_->slots[static_cast<std::size_t>(row)];
        const float* cosine = rotary.cosine.data() + position * rotary.half;
        const float* sine = rotary.sine.data() + position * rotary.half;
        for (std::int64_t k = 0; k < n_heads; ++k) {
            const std::int64_t head = first_head + k;
            float* x = scratch.product.data() + (row - rows.begin) * stride + k * dim;
            if (!weights.bias.empty()) {
                const float* bias = weights.bias.data() + head * dim;
                for (std::int64_t d = 0; d < dim; ++d) x[d] += bias[d];
            }
            const std::int64_t key_head = head - shape_.n_heads;
            if (key_head >= shape_.n_kv_heads) {
                ops_->store_value(x, dim, slot, pool.values(layer, key_head - shape_.n_kv_heads));
                continue;
            }
            const std::vector<float>& norm = key_head < 0 ? weights.query_norm : weights.key_norm;
            if (!norm.empty()) ops_->norm_float(x, norm.data(), shape_.norm_eps, dim, x, false);
            ops_->rotate(x, cosine, sine, rotary.half);
            Word* to = key_head < 0
                           ? state_->query.data() + row * attention_words() + head * dim_words
                           : pool.keys(layer, key_head) + slot * dim_words;
            ops_->store(x, dim, to);
        }
    }
}

// From the output of attention to the end of the layer.
void Decoder::finish_layer(const Layer& layer, Rows rows, float* residual, const Word* attended,
                           Scratch& scratch) {
    const std::int64_t n_rows = rows.end - rows.begin;
    const bool norms_attention = !layer.post_attention_norm.empty();
    layer.output.multiply(
        linear_input(attended, shape_.n_heads * shape_.head_dim, n_rows, scratch.inputs, scratch),
        {.values = norms_attention ? scratch.sum.data() : residual,
         .stride = padded_hidden_,
         .accumulate = !norms_attention});
    if (norms_attention) add_normed(layer.post_attention_norm, n_rows, residual, scratch);
    norm_rows(layer.feed_forward_norm, residual, n_rows, scratch);
    const bool norms_feed_forward = !layer.post_feed_forward_norm.empty();
    feed_forward(layer, n_rows, norms_feed_forward ? scratch.sum.data() : residual,
                 !norms_feed_forward, scratch);
    if (norms_feed_forward) add_normed(layer.post_feed_forward_norm, n_rows, residual, scratch);
}

void Decoder::add_normed(const std::vector<float>& weight, std::int64_t n_rows, float* residual,
                         Scratch& scratch) {
    for (std::int64_t row = 0; row < n_rows; ++row) {
        ops_->norm_float(scratch.sum.data() + row * padded_hidden_, weight.data(), shape_.norm_eps,
                         shape_.hidden, residual + row * padded_hidden_, true);
    }
}

// A chunk of units at a time, from normed rows to its share of the output.
void Decoder::feed_forward(const Layer& layer, std::int64_t n_rows, float* to, bool accumulate,
                           Scratch& scratch) {
    const LinearInput input =
        linear_input(scratch.normed.data(), shape_.hidden, n_rows, scratch.inputs, scratch);
    for (std::int64_t first = 0; first < padded_intermediate_; first += kUnitChunk) {
        const std::int64_t units = std::min(kUnitChunk, padded_intermediate_ - first);
        const std::int64_t words = units / ops_->values_per_word;
        layer.gate_up.multiply(
            input, first / kGateUnits, units / kGateUnits, 0, shape_.hidden,
            {.values = scratch.product.data(), .stride = 2 * units, .accumulate = false});
        for (std::int64_t row = 0; row < n_rows; ++row) {
            ops_->gate(scratch.product.data() + row * 2 * units, units, shape_.activation,
                       scratch.activation.data() + row * words);
        }
        layer.down.multiply(
            linear_input(scratch.activation.data(), units, n_rows, scratch.units, scratch), 0,
            layer.down.n_panels(), first, units,
            {.values = to, .stride = padded_hidden_, .accumulate = accumulate || first > 0});
    }
}

}  // namespace icm_fast::cpu
