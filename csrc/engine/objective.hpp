// Mutual predictability P(D), utility U(D) = alpha P(D) - I(D), and the scores that proposals use.
//
// Pure functions, thread-safe. Scores are LOO log-probabilities in natural log, float32; all
// arithmetic is IEEE double from left to right over the examples, so that a plain rendering of the
// formulas in another language gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/constraints.hpp"

namespace icm_fast::engine {

enum class Objective { kCalibrated, kMeanLogprob, kSumLogprob, kMeanLogodds };

// The name that SearchConfig uses; throws std::invalid_argument for an unknown one.
[[nodiscard]] Objective parse_objective(std::string_view name);

// A borrowed [n_examples, n_labels] table, row-major.
struct ScoreView {
    std::span<const float> values;
    std::size_t n_labels;

    [[nodiscard]] std::span<const float> row(std::size_t example) const {
        return values.subspan(example * n_labels, n_labels);
    }
};

// Labels that are known beforehand, [n_examples] with -1 where free, or empty: all are free.
using FixedLabels = std::span<const std::int32_t>;

// P(D) over the labelled examples, known ones included; 0 when there is none. `labels`:
// [n_examples]. The calibrated objective compares free and known examples each with the mean
// prediction of their own kind: which labels happen to be known says nothing of the others, and
// one common mean would reward labels that the known ones do not have.
[[nodiscard]] double predictability(Objective objective, std::span<const std::int32_t> labels,
                                    ScoreView scores, FixedLabels fixed = {});

// How the parts of U(D) weigh: alpha P(D) - `violation` for every violated pair.
struct Weights {
    double alpha = 50.0;
    double violation = 1.0;
};

// U(D) = alpha P(D) - I(D).
[[nodiscard]] double utility(Objective objective, Weights weights, const ConstraintGraph& graph,
                             std::span<const std::int32_t> labels, ScoreView scores,
                             FixedLabels fixed = {});

// Whether P(D) cannot rise when more examples are scored: sums and means of log-probabilities.
[[nodiscard]] bool has_bound(Objective objective);

// An upper bound of U(D), in floating point too, from scores that are NaN for some labelled
// examples: they are taken for 0. Only for objectives that have a bound.
[[nodiscard]] double utility_bound(Objective objective, Weights weights,
                                   const ConstraintGraph& graph,
                                   std::span<const std::int32_t> labels, ScoreView scores,
                                   FixedLabels fixed = {});

// The examples that a marginal averages over: free ones that are labelled, all free ones, or known
// ones.
enum class Marginal { kLabelled, kAll, kFixed };

// log q [n_labels]: log of the mean prediction over the given examples, each renormalised over
// the labels; uniform when there is none.
[[nodiscard]] std::vector<double> log_marginal(std::span<const std::int32_t> labels,
                                               ScoreView scores, Marginal over,
                                               FixedLabels fixed = {});

// Scores a [n_examples * n_labels] whose argmax is an example's proposal: log p - log q for the
// calibrated objective (plus the log of an expected label share, where shares are given), else
// log p. Unlabelled examples all follow one context, whose lean their
// own predictions show best: their q averages over all free examples, that of labelled ones is the
// objective's. Rows of known examples mean nothing.
[[nodiscard]] std::vector<double> adjusted_scores(Objective objective,
                                                  std::span<const std::int32_t> labels,
                                                  ScoreView scores,
                                                  std::span<const double> shares = {},
                                                  FixedLabels fixed = {});

// Index of the first largest entry.
[[nodiscard]] std::int32_t argmax(std::span<const double> row);

}  // namespace icm_fast::engine
