// The inner loops of a matrix product, for any instruction set and any kind of words.
//
// Included by one translation unit per instruction set: see kernels_impl.hpp.
#pragma once

#include <cstdint>

#include "cpu/ops.hpp"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace icm_fast::cpu {
namespace {

// An instruction set is a struct with
//   kLanes, kRegisters,
//   Sums (a vector of sums), Words (a vector of words),
//   load_words, broadcast, multiply_add(Sums, Words, Words).

// Where the rows of A lie: kRows has its words of k side by side, kColumns its rows.
enum class Layout { kRows, kColumns };

// sums[R, V vectors] += A B with B[k] at b + k * b_step. R * V sums stay in registers.
template <class Isa, Layout layout, int R, int V>
inline void add_product(typename Isa::Sums (&sums)[R][V], const Word* a, std::int64_t a_step,
                        const Word* b, std::int64_t b_step, std::int64_t n_words) {
    // Every third row has a pointer: the two behind it are reached by scaled addressing.
    constexpr int kPointers = (R + 2) / 3;
    const Word* rows[kPointers];
#pragma GCC unroll 16
    for (int p = 0; p < kPointers; ++p) {
        rows[p] = layout == Layout::kRows ? a + std::int64_t{3} * p * a_step : a;
    }
    for (std::int64_t k = 0; k < n_words; ++k) {
        typename Isa::Words column[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            column[v] = Isa::load_words(b + v * Isa::kLanes);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Word* at = layout == Layout::kRows ? rows[r / 3] + (r % 3) * a_step : a + r;
            const typename Isa::Words x = Isa::broadcast(at);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                sums[r][v] = Isa::multiply_add(sums[r][v], x, column[v]);
            }
        }
        if (layout == Layout::kRows) {
#pragma GCC unroll 16
            for (int p = 0; p < kPointers; ++p) ++rows[p];
        } else {
            a += a_step;
        }
        b += b_step;
    }
}

// Rows that fit the registers beside V vectors of columns.
template <class Isa, int V>
inline constexpr int kRegisterRows = [] {
    if (Isa::kRegisters >= 32) return V == 1 ? 12 : 24 / V;
    return V == 1 ? 8 : 12 / V;
}();

// work<R>(first) for the n_rows = R rows from `first` on.
template <int R, class Work>
inline void with_rows(std::int64_t n_rows, std::int64_t first, const Work& work) {
    if constexpr (R > 0) {
        if (n_rows == R) {
            work.template operator()<R>(first);
        } else {
            with_rows<R - 1>(n_rows, first, work);
        }
    }
}

// Any number of rows, at most kMost a call; they are split evenly so that no call has few sums.
template <int kMost, class Work>
inline void split_rows(std::int64_t n_rows, const Work& work) {
    std::int64_t first = 0;
    for (std::int64_t calls = (n_rows + kMost - 1) / kMost; calls > 0; --calls) {
        const std::int64_t rows = (n_rows - first + calls - 1) / calls;
        with_rows<kMost>(rows, first, work);
        first += rows;
    }
}

}  // namespace
}  // namespace icm_fast::cpu
