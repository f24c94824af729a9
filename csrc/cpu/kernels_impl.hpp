// The arithmetic itself, once for all instruction sets.
//
// Each instruction set includes this file in a translation unit of its own, compiled with its own
// flags. Everything here has internal linkage and nothing of the standard library is instantiated:
// a function compiled for AVX-512 must never be the one that the linker keeps for everybody.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cpu/ops.hpp"
#include "cpu/product.hpp"

namespace icm_fast::cpu {
namespace {

// An instruction set is a struct with
//   all that product.hpp asks for, with Sums = Floats,
//   kWord (values per word), kVectors (most vectors of query rows in a tile),
//   Floats, Ints (vector types),
//   larger(Floats, Floats), store_words, store_row, load_row, store_value.
constexpr std::int64_t kGateColumns = 16;
constexpr float kMasked = -1e30F;

inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

template <class Isa>
inline typename Isa::Floats load(const float* from) {
    typename Isa::Floats x;
    __builtin_memcpy(&x, from, sizeof(x));
    return x;
}

template <class Isa>
inline void save(float* to, typename Isa::Floats x) {
    __builtin_memcpy(to, &x, sizeof(x));
}

template <class Isa>
inline typename Isa::Floats splat(float x) {
    return x - typename Isa::Floats{};
}

template <class Isa>
inline float sum(typename Isa::Floats x) {
    float total = 0.0F;
    for (int i = 0; i < Isa::kLanes; ++i) total += x[i];
    return total;
}

template <class Isa>
inline typename Isa::Floats larger(typename Isa::Floats a, typename Isa::Floats b) {
    return Isa::larger(a, b);
}

// exp to about 2 units in the last place; arguments below -87 give about 1e-38.
template <class Isa>
inline typename Isa::Floats exponential(typename Isa::Floats x) {
    using Floats = typename Isa::Floats;
    using Ints = typename Isa::Ints;
    const Floats low = splat<Isa>(-87.0F);
    const Floats high = splat<Isa>(88.0F);
    x = x < low ? low : x;
    x = x > high ? high : x;
    const float magic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to a whole number
    const Floats shifted = x * 1.44269504F + magic;
    const Floats whole = shifted - magic;
    const Floats rest = (x - whole * 0.693359375F) + whole * 2.12194440e-4F;
    Floats p = rest * 1.9875691500e-4F + 1.3981999507e-3F;
    p = p * rest + 8.3334519073e-3F;
    p = p * rest + 4.1665795894e-2F;
    p = p * rest + 1.6666665459e-1F;
    p = p * rest + 5.0000001201e-1F;
    p = p * (rest * rest) + rest + 1.0F;
    Ints power;
    __builtin_memcpy(&power, &shifted, sizeof(power));
    power = (power - 0x4B400000 + 127) << 23;
    Floats scale;
    __builtin_memcpy(&scale, &power, sizeof(scale));
    return p * scale;
}

// 2^x for x <= 1; below -126 it gives about 1e-38. The error is that of a float where a word holds
// one, else far less than the rounding of a word's values.
template <class Isa>
inline typename Isa::Floats power_of_two(typename Isa::Floats x) {
    using Floats = typename Isa::Floats;
    using Ints = typename Isa::Ints;
    x = larger<Isa>(x, splat<Isa>(-126.0F));
    const float magic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to a whole number
    const Floats shifted = x + magic;
    const Floats rest = x - (shifted - magic);
    // Least relative error over [-1/2, 1/2].
    Floats p;
    if constexpr (Isa::kWord == 1) {
        p = rest * 1.327647115e-3F + 9.675541328e-3F;
        p = p * rest + 5.550713276e-2F;
        p = p * rest + 2.402211972e-1F;
        p = p * rest + 6.931469671e-1F;
        p = p * rest + 1.000000072F;
    } else {
        p = rest * 5.517166175e-2F + 2.426111216e-1F;
        p = p * rest + 6.932609868e-1F;
        p = p * rest + 9.999280736e-1F;
    }
    Ints bits;
    Ints power;
    __builtin_memcpy(&bits, &p, sizeof(bits));
    __builtin_memcpy(&power, &shifted, sizeof(power));
    bits += power << 23;  // what lies above the whole number in `shifted` is shifted out
    __builtin_memcpy(&p, &bits, sizeof(p));
    return p;
}

// ---- Matrix product -----------------------------------------------------------------------------

// C[R, V vectors] = (C +) A B with B[k] at b + k * b_step.
template <class Isa, Layout layout, int R, int V>
inline void product(const Word* a, std::int64_t a_step, const Word* b, std::int64_t b_step,
                    std::int64_t n_words, float* c, std::int64_t c_step, bool accumulate) {
    typename Isa::Floats sums[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            sums[r][v] =
                accumulate ? load<Isa>(c + r * c_step + v * Isa::kLanes) : typename Isa::Floats{};
        }
    }
    add_product<Isa, layout, R, V>(sums, a, a_step, b, b_step, n_words);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) save<Isa>(c + r * c_step + v * Isa::kLanes, sums[r][v]);
    }
}

template <class Isa, Layout layout, int V>
inline void product_rows(std::int64_t n_rows, const Word* a, std::int64_t a_step, const Word* b,
                         std::int64_t b_step, std::int64_t n_words, float* c, std::int64_t c_step,
                         bool accumulate) {
    const std::int64_t row_step = layout == Layout::kRows ? a_step : 1;
    split_rows<kRegisterRows<Isa, V>>(n_rows, [=]<int R>(std::int64_t first) {
        product<Isa, layout, R, V>(a + first * row_step, a_step, b, b_step, n_words,
                                   c + first * c_step, c_step, accumulate);
    });
}

template <class Isa>
void gemm(const GemmArgs& g) {
    constexpr int kVectors = 2;
    constexpr std::int64_t kColumns = kVectors * Isa::kLanes;
    static_assert(kPanelColumns % kColumns == 0);
    for (std::int64_t panel = 0; panel < g.n_panels; ++panel) {
        const Word* b = g.b + panel * g.b_panel_words;
        float* c = g.c + panel * kPanelColumns;
        for (std::int64_t part = 0; part < kPanelColumns; part += kColumns) {
            product_rows<Isa, Layout::kRows, kVectors>(g.n_rows, g.a, g.a_stride, b + part,
                                                       kPanelColumns, g.n_words, c + part,
                                                       g.c_stride, g.accumulate);
        }
    }
}

// ---- Attention ----------------------------------------------------------------------------------

// Keys are rows and queries are lanes, so that sums over keys never cross lanes: scores are K Q^T
// and the output is V^T P, both products of the kind above, with K and V read where they lie.
template <class Isa, int V>
class Attention {
    using Floats = typename Isa::Floats;
    static constexpr std::int64_t kTile = V * Isa::kLanes;

    // Part of a key range inside the block at hand; rows count in the block's rows.
    struct Piece {
        std::int64_t row;
        std::int64_t n_rows;  // a multiple of the values per word
        std::int64_t slot;
        std::int64_t position;   // of its first row
        std::int64_t first_key;  // rows before it and from end_key on are padding
        std::int64_t end_key;
    };

  public:
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): start() fills what a tile needs.
    explicit Attention(const AttendArgs& args)
        : args_(args),
          head_words_(args.head_dim / Isa::kWord),
          queries_(reinterpret_cast<Word*>(args.scratch)),
          out_(args.scratch + args.head_dim * kTile),
          scores_(out_ + args.head_dim * kTile),
          weights_(reinterpret_cast<Word*>(scores_ + (kKeyBlock + 2) * kTile)),
          row_(scores_ + 2 * (kKeyBlock + 2) * kTile),
          stores_scaled_(args.softcap > 0.0F || args.sinks != nullptr || args.scaling <= 0.0F),
          unit_(1.44269504F * (stores_scaled_ ? 1.0F : args.scaling)) {}

    void run() {
        pack_queries();
        start();
        for (std::int64_t r = 0; r < args_.n_ranges; ++r) take_range(args_.ranges[r]);
        flush();
        finish();
    }

  private:
    void pack_queries() {
        const std::int64_t n = args_.row_end - args_.row_begin;
        lowest_ = args_.start + args_.row_begin / args_.group;
        highest_ = args_.start + (args_.row_end - 1) / args_.group;
        for (std::int64_t lane = 0; lane < kTile; ++lane) {
            // Lanes without a row repeat the last one.
            const std::int64_t row = args_.row_begin + least(lane, n - 1);
            const std::int64_t token = row / args_.group;
            const Word* from =
                args_.query + token * args_.query_stride + (row % args_.group) * head_words_;
            for (std::int64_t k = 0; k < head_words_; ++k) queries_[k * kTile + lane] = from[k];
            position_[lane] = static_cast<float>(args_.start + token);
            sink_[lane] = args_.sinks != nullptr ? args_.sinks[row % args_.group] : 0.0F;
        }
    }

    void start() {
        for (std::int64_t i = 0; i < args_.head_dim * kTile; ++i) out_[i] = 0.0F;
        // A sink is a key without a value that every query has seen before all others.
        const bool has_sinks = args_.sinks != nullptr;
        for (int v = 0; v < V; ++v) {
            maximum_[v] = has_sinks ? load<Isa>(sink_ + v * Isa::kLanes) : splat<Isa>(kMasked);
            total_[v] = splat<Isa>(has_sinks ? 1.0F : 0.0F);
        }
    }

    void take_range(KeyRange range) {
        std::int64_t end = least(range.count, highest_ + 1 - range.position);
        std::int64_t begin =
            args_.window > 0 ? most(0, lowest_ - args_.window + 1 - range.position) : 0;
        while (begin < end) {
            const std::int64_t lead = (range.slot + begin) % Isa::kWord;
            const std::int64_t room = kKeyBlock - filled_ - lead;
            if (room < Isa::kWord || n_pieces_ == kMaxPieces) {
                flush();
                continue;
            }
            const std::int64_t keys = least(end - begin, room);
            add_piece(range.slot + begin - lead, range.position + begin - lead, lead, lead + keys);
            begin += keys;
        }
    }

    void add_piece(std::int64_t slot, std::int64_t position, std::int64_t first_key,
                   std::int64_t end_key) {
        const std::int64_t rows = (end_key + Isa::kWord - 1) / Isa::kWord * Isa::kWord;
        pieces_[n_pieces_++] = {filled_, rows, slot, position, first_key, end_key};
        product_rows<Isa, Layout::kRows, V>(rows, args_.keys + slot * head_words_, head_words_,
                                            queries_, kTile, head_words_, scores_ + filled_ * kTile,
                                            kTile, false);
        filled_ += rows;
    }

    void flush() {
        if (n_pieces_ == 0) return;
        Floats maximum[V];
        for (int v = 0; v < V; ++v) maximum[v] = maximum_[v];
        for (std::int64_t p = 0; p < n_pieces_; ++p) scale_and_mask(pieces_[p], maximum);
        rescale(maximum);
        for (std::int64_t p = 0; p < n_pieces_; ++p) weigh(pieces_[p]);
        for (std::int64_t p = 0; p < n_pieces_; ++p) add_values(pieces_[p]);
        n_pieces_ = 0;
        filled_ = 0;
    }

    [[nodiscard]] bool hides_something(const Piece& piece) const {
        const std::int64_t last = piece.position + piece.end_key - 1;
        const std::int64_t first = piece.position + piece.first_key;
        return last > lowest_ || (args_.window > 0 && first <= highest_ - args_.window);
    }

    // Most scores are left as the product made them: the scaling is part of the exponent's unit.
    void scale_and_mask(const Piece& piece, Floats (&maximum)[V]) {
        const bool masks = hides_something(piece);
        if (masks || stores_scaled_) {
            change_scores(piece, masks);
        }
        for (std::int64_t row = piece.first_key; row < piece.end_key; ++row) {
            const float* at = scores_ + (piece.row + row) * kTile;
            for (int v = 0; v < V; ++v) {
                maximum[v] = larger<Isa>(maximum[v], load<Isa>(at + v * Isa::kLanes));
            }
        }
    }

    void change_scores(const Piece& piece, bool masks) {
        const Floats scaling = splat<Isa>(args_.scaling);
        for (std::int64_t row = piece.first_key; row < piece.end_key; ++row) {
            float* at = scores_ + (piece.row + row) * kTile;
            for (int v = 0; v < V; ++v) {
                Floats s = load<Isa>(at + v * Isa::kLanes);
                if (stores_scaled_) s *= scaling;
                if (args_.softcap > 0.0F) s = soft_cap(s);
                if (masks) s = mask(s, piece.position + row, v);
                save<Isa>(at + v * Isa::kLanes, s);
            }
        }
    }

    [[nodiscard]] Floats soft_cap(Floats s) const {
        const Floats twice = exponential<Isa>(s * (2.0F / args_.softcap));
        return (1.0F - 2.0F / (twice + 1.0F)) * args_.softcap;
    }

    [[nodiscard]] Floats mask(Floats s, std::int64_t key, int v) const {
        const Floats position = load<Isa>(position_ + v * Isa::kLanes);
        const Floats at = splat<Isa>(static_cast<float>(key));
        const Floats hidden = splat<Isa>(kMasked);
        s = at > position ? hidden : s;
        if (args_.window > 0) {
            s = at <= position - static_cast<float>(args_.window) ? hidden : s;
        }
        return s;
    }

    void rescale(const Floats (&maximum)[V]) {
        Floats factor[V];
        bool changed = false;
        for (int v = 0; v < V; ++v) {
            factor[v] = power_of_two<Isa>((maximum_[v] - maximum[v]) * unit_);
            total_[v] *= factor[v];
            const auto differs = maximum_[v] != maximum[v];
            for (int i = 0; i < Isa::kLanes; ++i) changed |= differs[i] != 0;
            maximum_[v] = maximum[v];
        }
        if (!changed) return;
        for (std::int64_t d = 0; d < args_.head_dim; ++d) {
            for (int v = 0; v < V; ++v) {
                float* at = out_ + d * kTile + v * Isa::kLanes;
                save<Isa>(at, load<Isa>(at) * factor[v]);
            }
        }
    }

    // Scores to weights, in words of neighbouring keys.
    void weigh(const Piece& piece) {
        for (std::int64_t row = 0; row < piece.n_rows; row += Isa::kWord) {
            Word* to = weights_ + (piece.row + row) / Isa::kWord * kTile;
            for (int v = 0; v < V; ++v) {
                Floats p[Isa::kWord];
#pragma GCC unroll 2
                for (int w = 0; w < Isa::kWord; ++w) {
                    const bool is_key = row + w >= piece.first_key && row + w < piece.end_key;
                    const float* at = scores_ + (piece.row + row + w) * kTile + v * Isa::kLanes;
                    p[w] = is_key ? power_of_two<Isa>((load<Isa>(at) - maximum_[v]) * unit_)
                                  : Floats{};
                    total_[v] += p[w];
                }
                Isa::store_words(p, to + v * Isa::kLanes);
            }
        }
    }

    void add_values(const Piece& piece) {
        product_rows<Isa, Layout::kColumns, V>(
            args_.head_dim, args_.values + piece.slot / Isa::kWord * args_.head_dim, args_.head_dim,
            weights_ + piece.row / Isa::kWord * kTile, kTile, piece.n_rows / Isa::kWord, out_,
            kTile, true);
    }

    void finish() {
        for (int v = 0; v < V; ++v) {
            const Floats inverse = 1.0F / total_[v];
            for (std::int64_t d = 0; d < args_.head_dim; ++d) {
                float* at = out_ + d * kTile + v * Isa::kLanes;
                save<Isa>(at, load<Isa>(at) * inverse);
            }
        }
        for (std::int64_t row = args_.row_begin; row < args_.row_end; ++row) {
            const std::int64_t lane = row - args_.row_begin;
            for (std::int64_t d = 0; d < args_.head_dim; ++d) row_[d] = out_[d * kTile + lane];
            Word* to = args_.out + row / args_.group * args_.out_stride +
                       (row % args_.group) * head_words_;
            Isa::store_row(row_, args_.head_dim, to);
        }
    }

    static constexpr std::int64_t kMaxPieces = 32;

    const AttendArgs& args_;
    std::int64_t head_words_;
    Word* queries_;       // [head_words][kTile]
    float* out_;          // [head_dim][kTile]
    float* scores_;       // [kKeyBlock + 2][kTile]
    Word* weights_;       // [(kKeyBlock + 2) / kWord][kTile]
    float* row_;          // [head_dim]
    bool stores_scaled_;  // whether scores are scaled before they are stored
    float unit_;          // of stored scores, in powers of two
    float position_[kTile];
    float sink_[kTile];
    std::int64_t lowest_ = 0;  // positions of the tile's first and last token
    std::int64_t highest_ = 0;
    Floats maximum_[V];
    Floats total_[V];
    Piece pieces_[kMaxPieces];
    std::int64_t n_pieces_ = 0;
    std::int64_t filled_ = 0;
};

template <class Isa>
void attend(const AttendArgs& args) {
    const std::int64_t vectors = (args.row_end - args.row_begin + Isa::kLanes - 1) / Isa::kLanes;
    if (vectors == 1) {
        Attention<Isa, 1>(args).run();
    } else if (vectors == 2) {
        Attention<Isa, 2>(args).run();
    }
    if constexpr (Isa::kVectors > 2) {
        if (vectors == 3) {
            Attention<Isa, 3>(args).run();
        } else if (vectors == 4) {
            Attention<Isa, 4>(args).run();
        }
    }
}

// ---- Between the products -----------------------------------------------------------------------

template <class Isa>
inline float inverse_rms(const float* x, float eps, std::int64_t n) {
    typename Isa::Floats squares{};
    std::int64_t i = 0;
    for (; i + Isa::kLanes <= n; i += Isa::kLanes) {
        const auto value = load<Isa>(x + i);
        squares += value * value;
    }
    float total = sum<Isa>(squares);
    for (; i < n; ++i) total += x[i] * x[i];
    return 1.0F / __builtin_sqrtf(total / static_cast<float>(n) + eps);
}

template <class Isa>
void norm(const float* x, const float* weight, float eps, std::int64_t n, Word* to) {
    constexpr std::int64_t kChunk = 256;
    const float factor = inverse_rms<Isa>(x, eps, n);
    float part[kChunk];
    for (std::int64_t i = 0; i < n; i += kChunk) {
        const std::int64_t count = least(kChunk, n - i);
        for (std::int64_t k = 0; k < count; ++k) part[k] = x[i + k] * factor * weight[i + k];
        Isa::store_row(part, count, to + i / Isa::kWord);
    }
}

template <class Isa>
void norm_float(const float* x, const float* weight, float eps, std::int64_t n, float* to,
                bool add) {
    const float factor = inverse_rms<Isa>(x, eps, n);
    if (add) {
        for (std::int64_t i = 0; i < n; ++i) to[i] += x[i] * factor * weight[i];
    } else {
        for (std::int64_t i = 0; i < n; ++i) to[i] = x[i] * factor * weight[i];
    }
}

template <class Isa>
void rotate(float* x, const float* cosine, const float* sine, std::int64_t half) {
    for (std::int64_t i = 0; i < half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

template <class Isa>
void gate(const float* panels, std::int64_t n, Activation activation, Word* to) {
    using Floats = typename Isa::Floats;
    static_assert(kPanelColumns == 2 * kGateColumns && kGateColumns % Isa::kLanes == 0);
    for (std::int64_t done = 0; done < n; done += kGateColumns) {
        float results[kGateColumns];
        for (std::int64_t k = 0; k < kGateColumns; k += Isa::kLanes) {
            const float* at = panels + 2 * done + k;
            const Floats x = load<Isa>(at);
            const Floats up = load<Isa>(at + kGateColumns);
            // gelu's 0.5 (1 + tanh(z)) is the logistic function of 2 z.
            const Floats z =
                activation == Activation::kSilu ? x : (x + x * x * x * 0.044715F) * 1.5957691216F;
            save<Isa>(results + k, x * up / (1.0F + exponential<Isa>(-z)));
        }
        Isa::store_row(results, kGateColumns, to + done / Isa::kWord);
    }
}

template <class Isa>
void store_value(const float* from, std::int64_t head_dim, std::int64_t slot, Word* values) {
    Isa::store_value(from, head_dim, slot, values);
}

template <class Isa>
constexpr Ops make_ops(const char* name) noexcept {
    return {.name = name,
            .format = Isa::kWord == 1 ? Format::kFloat32 : Format::kBfloat16,
            .values_per_word = Isa::kWord,
            .tile_rows = Isa::kVectors * Isa::kLanes,
            .gemm = gemm<Isa>,
            .attend = attend<Isa>,
            .store = Isa::store_row,
            .load = Isa::load_row,
            .norm = norm<Isa>,
            .norm_float = norm_float<Isa>,
            .rotate = rotate<Isa>,
            .gate = gate<Isa>,
            .store_value = store_value<Isa>};
}

// What all float32 instruction sets have in common: a word is a float.
struct FloatWords {
    static constexpr int kWord = 1;

    static void store_row(const float* from, std::int64_t n, Word* to) {
        __builtin_memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
    }
    static void load_row(const Word* from, std::int64_t n, float* to) {
        __builtin_memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
    }
    static void store_value(const float* from, std::int64_t head_dim, std::int64_t slot,
                            Word* values) {
        store_row(from, head_dim, values + slot * head_dim);
    }
};

}  // namespace
}  // namespace icm_fast::cpu
