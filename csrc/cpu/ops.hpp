// The arithmetic that differs by instruction set, as a table of functions.
//
// Matrices of weights, activations, keys and values are stored in 32-bit words: one float32, or two
// neighbouring bfloat16 (a multiply-add instruction takes such a pair at a time). Sums are float32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace icm_fast::cpu {

using Word = std::uint32_t;

enum class Format { kFloat32, kBfloat16 };

// Output columns that a packed weight matrix keeps together.
inline constexpr std::int64_t kPanelColumns = 32;
// Query rows that one call of `attend` takes at most, over all instruction sets.
inline constexpr std::int64_t kMaxTileRows = 64;
// Keys whose scores are held at a time.
inline constexpr std::int64_t kKeyBlock = 128;

// C[rows, columns] (+)= A[rows, k] B[k, columns], columns a multiple of kPanelColumns.
struct GemmArgs {
    const Word* a;
    std::int64_t a_stride;  // words between rows of A
    std::int64_t n_rows;
    const Word* b;  // packed: [panel][word][kPanelColumns], first word of the first panel
    std::int64_t b_panel_words;  // words between panels of B
    std::int64_t n_panels;
    std::int64_t n_words;  // words of k
    float* c;
    std::int64_t c_stride;  // floats between rows of C
    bool accumulate;
};

// Consecutive pool slots whose tokens stand at consecutive positions.
struct KeyRange {
    std::int64_t slot;
    std::int64_t count;
    std::int64_t position;
};

// Attention of some query rows of one segment and one key-value head. Row r is token r / group of
// the segment and query head r % group of the group.
struct AttendArgs {
    const Word* query;          // the segment's first token, the group's first head
    std::int64_t query_stride;  // words between tokens
    std::int64_t group;
    std::int64_t head_dim;  // a multiple of 2
    std::int64_t row_begin;
    std::int64_t row_end;  // at most `tile_rows` after row_begin
    std::int64_t start;    // position of the segment's first token
    const Word* keys;      // [slot][head_dim]
    const Word* values;    // [slot][head_dim], or for bfloat16 [slot / 2][head_dim][2]
    const KeyRange* ranges;
    std::int64_t n_ranges;
    float scaling;
    float softcap;        // 0: none
    std::int64_t window;  // 0: none
    const float* sinks;   // [group], or null
    Word* out;            // as `query`
    std::int64_t out_stride;
    float* scratch;  // attend_scratch_floats(head_dim)
};

// One gate-and-up panel row: 16 gate columns, then 16 up columns, and so on.
enum class Activation { kSilu, kGeluTanh };

struct Ops {
    const char* name;
    Format format;
    std::int64_t values_per_word;
    std::int64_t tile_rows;  // query rows that `attend` takes at a time

    void (*gemm)(const GemmArgs&);
    void (*attend)(const AttendArgs&);
    // Rounds n floats into words; n a multiple of values_per_word.
    void (*store)(const float* from, std::int64_t n, Word* to);
    // Widens n values into floats.
    void (*load)(const Word* from, std::int64_t n, float* to);
    // to = x / rms(x) * weight, as words.
    void (*norm)(const float* x, const float* weight, float eps, std::int64_t n, Word* to);
    // to (+)= x / rms(x) * weight, as floats; `to` may be x itself where it does not add.
    void (*norm_float)(const float* x, const float* weight, float eps, std::int64_t n, float* to,
                       bool add);
    // Rotates pairs (i, i + half) of x in place by the angles of cosine and sine.
    void (*rotate)(float* x, const float* cosine, const float* sine, std::int64_t half);
    // n results act(gate) * up from n / 16 panels of 32 floats.
    void (*gate)(const float* panels, std::int64_t n, Activation activation, Word* to);
    // Writes one value row into its slot.
    void (*store_value)(const float* from, std::int64_t head_dim, std::int64_t slot, Word* values);
};

inline std::int64_t attend_scratch_floats(std::int64_t head_dim) {
    // Packed queries, output, scores, weights, and one row.
    return (2 * head_dim + 2 * (kKeyBlock + 2)) * kMaxTileRows + head_dim + 64;
}

// The fastest operations of this processor in a format; null where it has none. ICM_FAST_ISA in the
// environment ("portable", "avx2", "avx512", "avx512_bf16") forbids faster ones, for tests.
const Ops* pick_ops(Format format);

// All that this processor can run, slowest first; `count` receives their number.
const Ops* const* available_ops(std::size_t& count);

}  // namespace icm_fast::cpu
