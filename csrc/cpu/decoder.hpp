// A transformer decoder over packed segments and shared key-value ranges, on the CPU.
//
// One family of architectures: pre-norm blocks with RMS normalisation, rotary positions,
// grouped-query attention and a gated feed-forward layer, optionally with biases on queries, keys
// and values, norms on queries and keys, and norms behind attention and feed-forward (llama,
// mistral, qwen2, qwen3, phi3, gemma2, gemma3). The residual stream is float32 whatever the
// weights' format.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cpu/aligned_buffer.hpp"
#include "cpu/call_lock.hpp"
#include "cpu/int8_ops.hpp"
#include "cpu/kv_pool.hpp"
#include "cpu/linear.hpp"
#include "cpu/ops.hpp"
#include "cpu/thread_pool.hpp"
#include "cpu/tree_attention.hpp"

namespace icm_fast::cpu {

struct DecoderShape {
    std::int64_t hidden;  // even
    std::int64_t intermediate;
    std::int64_t n_heads;
    std::int64_t n_kv_heads;
    std::int64_t head_dim;  // even
    std::int64_t n_layers;
    float norm_eps;
    Activation activation;
};

// Cosines and sines of one kind of rotary positions, [n_positions][half] each.
struct RotaryTable {
    std::int64_t half = 0;  // pairs rotated; 2 * half <= head_dim
    std::int64_t n_positions = 0;
    std::vector<float> cosine;
    std::vector<float> sine;
};

// One layer's weights as the model has them, float32 row-major [outputs][inputs]; borrowed for the
// call. Empty where the layer has none.
struct LayerSource {
    std::span<const float> query, key, value, output;
    std::span<const float> gate, up, down;
    std::span<const float> query_bias, key_bias, value_bias;
    std::span<const float> input_norm, post_attention_norm, feed_forward_norm,
        post_feed_forward_norm;
    std::span<const float> query_norm, key_norm;
    std::int64_t rotary = 0;  // index of the table
    std::int64_t window = 0;  // 0: full attention
    float scaling = 1.0F;
    float softcap = 0.0F;
};

// Which hidden states of a segment are returned.
enum Wanted : std::uint8_t { kNone = 0, kLast = 1, kAll = 2 };

// One packed batch. Segments touch and cover all rows.
struct Batch {
    std::int64_t n_tokens = 0;
    std::vector<Segment> segments;
    // Per segment: which of its last hidden states are returned, as `Wanted`.
    std::vector<std::uint8_t> wanted;
};

// Hidden states that a batch returns; `wanted` holds one entry per segment.
[[nodiscard]] std::int64_t n_wanted_rows(const Batch& batch);

class Decoder {
  public:
    // `int8` approximates the linear layers; null leaves them exact. Throws std::invalid_argument
    // for shapes that do not fit together or are out of all proportion, and as ThreadPool does.
    Decoder(const Ops& ops, const Int8Ops* int8, const DecoderShape& shape, std::int32_t n_threads);
    ~Decoder();
    Decoder(const Decoder&) = delete;
    Decoder& operator=(const Decoder&) = delete;
    Decoder(Decoder&&) = delete;
    Decoder& operator=(Decoder&&) = delete;

    // Appends a layer. Throws std::invalid_argument where a size is wrong.
    void add_layer(const LayerSource& source);

    [[nodiscard]] const Ops& ops() const { return *ops_; }
    [[nodiscard]] const DecoderShape& shape() const { return shape_; }
    [[nodiscard]] KvShape kv_shape(std::int64_t n_slots) const {
        return {shape_.n_layers, shape_.n_kv_heads, shape_.head_dim, n_slots};
    }
    // Takes its turn as well.
    [[nodiscard]] std::int64_t n_weight_bytes() const;

    [[nodiscard]] std::int32_t n_threads() const { return threads_.size(); }

    // Runs a batch: writes its keys and values into the pool and the wanted hidden states after the
    // last layer, before the final norm, into `out` [n_wanted][hidden]. `embeddings` is
    // [n_tokens][hidden]; layers name `rotary` by index. Concurrent calls, of add_layer too, take
    // turns, also for the pool. A forked child may go on: it starts threads of its own. Throws
    // std::invalid_argument for a batch that does not fit the pool or the rotary tables.
    void forward(const Batch& batch, std::span<const float> embeddings,
                 std::span<const RotaryTable> rotary, KvPool& pool, std::span<float> out);

  private:
    struct Layer {
        Linear query_key_value, output, gate_up, down;
        std::vector<float> bias;  // of queries, keys, values
        std::vector<float> input_norm, post_attention_norm, feed_forward_norm,
            post_feed_forward_norm, query_norm, key_norm;
        std::int64_t rotary, window;
        float scaling, softcap;
    };

    // Rows in 8-bit integers.
    struct Bytes {
        AlignedBuffer<Word> words;
        AlignedBuffer<float> scales;  // [rows][groups]
    };

    // Rows of one thread at a time and the memory it works in.
    struct Scratch {
        AlignedBuffer<Word> normed;      // [rows][hidden words]
        AlignedBuffer<Word> activation;  // [rows][intermediate chunk]
        AlignedBuffer<float> product;    // [rows][chunk of outputs]
        AlignedBuffer<float> sum;        // [rows][padded hidden], before a norm behind a sub-layer
        AlignedBuffer<float> attention;
        // Only where the linear layers take 8-bit integers.
        Bytes inputs;              // [rows][hidden or heads]
        Bytes units;               // [rows][chunk]
        AlignedBuffer<float> row;  // one row of either
    };

    // Rows that take part in a step, in the packed batch's numbering of residuals and attention.
    struct Rows {
        std::int64_t begin;
        std::int64_t end;
    };

    // The batch at hand.
    struct State {
        std::span<const RotaryTable> rotary;
        AlignedBuffer<float> residual;  // [n_tokens][padded hidden]
        AlignedBuffer<Word> query;      // [n_tokens][heads][head_dim]
        AlignedBuffer<Word> attended;   // as query
        AlignedBuffer<float> last;      // [n_wanted][padded hidden]
        AlignedBuffer<Word> last_attended;
        std::vector<std::int64_t> positions, slots, wanted_rows;
        std::vector<AttentionTile> tiles, last_tiles;
        Tickets row_tickets, tile_tickets;
    };

    void renew_state();
    void check(const Batch& batch, std::span<const float> embeddings,
               std::span<const RotaryTable> rotary, const KvPool& pool, std::span<float> out) const;
    static void check_segments(const Batch& batch, std::span<const RotaryTable> rotary,
                               const KvShape& kv);
    void prepare(const Batch& batch, std::span<const float> embeddings);
    void run_thread(std::int32_t thread, const Batch& batch, KvPool& pool);
    template <typename Work>
    void for_row_tiles(std::int64_t n_rows, const Work& work);
    void attend(std::int32_t thread, std::int64_t layer, const Batch& batch, KvPool& pool,
                std::span<const AttentionTile> tiles);
    void project(std::int64_t layer, Rows rows, KvPool& pool, Scratch& scratch);
    void place_heads(std::int64_t layer, Rows rows, std::int64_t first_head, std::int64_t n_heads,
                     KvPool& pool, Scratch& scratch);
    void finish_layer(const Layer& layer, Rows rows, float* residual, const Word* attended,
                      Scratch& scratch);
    void feed_forward(const Layer& layer, std::int64_t n_rows, float* to, bool accumulate,
                      Scratch& scratch);
    LinearInput linear_input(const Word* words, std::int64_t n_values, std::int64_t n_rows,
                             Bytes& bytes, Scratch& scratch) const;
    void norm_rows(const std::vector<float>& weight, const float* residual, std::int64_t n_rows,
                   Scratch& scratch);
    void add_normed(const std::vector<float>& weight, std::int64_t n_rows, float* residual,
                    Scratch& scratch);
    void gather_wanted();

    [[nodiscard]] std::int64_t attention_words() const {
        return shape_.n_heads * shape_.head_dim / ops_->values_per_word;
    }

    const Ops* ops_;
    const Int8Ops* int8_;
    DecoderShape shape_;
    std::int64_t padded_hidden_;        // whole panels
    std::int64_t padded_intermediate_;  // whole panels of gate and up
    std::int64_t hidden_words_;
    std::int64_t head_chunk_;  // heads whose projections are made at a time
    std::vector<Layer> layers_;
    ThreadPool threads_;
    std::vector<Scratch> scratch_;
    std::unique_ptr<State> state_;
    mutable CallLock calls_;
};

}  // namespace icm_fast::cpu
