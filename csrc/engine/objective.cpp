#include "engine/objective.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace icm_fast::engine {
namespace {

// log p_y - log(sum of the other labels' p), by log-sum-exp.
double log_odds(std::span<const float> row, std::size_t label) {
    double largest = -std::numeric_limits<double>::infinity();
    for (std::size_t z = 0; z < row.size(); ++z) {
        if (z != label) {
            largest = std::max(largest, static_cast<double>(row[z]));
        }
    }
    double total = 0.0;
    for (std::size_t z = 0; z < row.size(); ++z) {
        if (z != label) {
            total += std::exp(static_cast<double>(row[z]) - largest);
        }
    }
    return static_cast<double>(row[label]) - (largest + std::log(total));
}

void add_softmax(std::span<const float> row, std::span<double> sums) {
    const double largest = *std::ranges::max_element(row);
    double total = 0.0;
    for (const float score : row) {
        total += std::exp(static_cast<double>(score) - largest);
    }
    for (std::size_t y = 0; y < row.size(); ++y) {
        sums[y] += std::exp(static_cast<double>(row[y]) - largest) / total;
    }
}

bool is_fixed(FixedLabels fixed, std::size_t example) {
    return !fixed.empty() && fixed[example] != kUnlabelled;
}

bool is_averaged(Marginal over, bool is_known, bool is_labelled) {
    if (over == Marginal::kFixed) return is_known && is_labelled;
    return !is_known && (over == Marginal::kAll || is_labelled);
}

}  // namespace

Objective parse_objective(std::string_view name) {
    if (name == "calibrated") return Objective::kCalibrated;
    if (name == "mean_logprob") return Objective::kMeanLogprob;
    if (name == "sum_logprob") return Objective::kSumLogprob;
    if (name == "mean_logodds") return Objective::kMeanLogodds;
    throw std::invalid_argument("unknown objective '" + std::string(name) + "'");
}

std::vector<double> log_marginal(std::span<const std::int32_t> labels, ScoreView scores,
                                 Marginal over, FixedLabels fixed) {
    std::vector<double> marginal(scores.n_labels, 0.0);
    std::int64_t n_rows = 0;
    for (std::size_t i = 0; i < labels.size(); ++i) {
        if (is_averaged(over, is_fixed(fixed, i), labels[i] != kUnlabelled)) {
            add_softmax(scores.row(i), marginal);
            ++n_rows;
        }
    }
    for (double& q : marginal) {
        q = n_rows == 0 ? 1.0 / static_cast<double>(scores.n_labels)
                        : q / static_cast<double>(n_rows);
        // A label whose probability underflows everywhere must not get an infinite bonus.
        q = std::log(std::max(q, std::numeric_limits<double>::min()));
    }
    return marginal;
}

double predictability(Objective objective, std::span<const std::int32_t> labels, ScoreView scores,
                      FixedLabels fixed) {
    const auto marginal = [&](Marginal over) {
        return objective == Objective::kCalibrated ? log_marginal(labels, scores, over, fixed)
                                                   : std::vector<double>(scores.n_labels, 0.0);
    };
    const std::vector<double> log_q = marginal(Marginal::kLabelled);
    const std::vector<double> log_q_fixed = marginal(Marginal::kFixed);
    double total = 0.0;
    std::int64_t n_labelled = 0;
    for (std::size_t i = 0; i < labels.size(); ++i) {
        if (labels[i] == kUnlabelled) {
            continue;
        }
        const auto label = static_cast<std::size_t>(labels[i]);
        total += objective == Objective::kMeanLogodds
                     ? log_odds(scores.row(i), label)
                     : static_cast<double>(scores.row(i)[label]) -
                           (is_fixed(fixed, i) ? log_q_fixed : log_q)[label];
        ++n_labelled;
    }
    if (n_labelled == 0) {
        return 0.0;
    }
    return objective == Objective::kSumLogprob ? total : total / static_cast<double>(n_labelled);
}

double utility(Objective objective, Weights weights, const ConstraintGraph& graph,
               std::span<const std::int32_t> labels, ScoreView scores, FixedLabels fixed) {
    return weights.alpha * predictability(objective, labels, scores, fixed) -
           weights.violation * static_cast<double>(graph.count_violations(labels));
}

bool has_bound(Objective objective) {
    return objective == Objective::kMeanLogprob || objective == Objective::kSumLogprob;
}

double utility_bound(Objective objective, Weights weights, const ConstraintGraph& graph,
                     std::span<const std::int32_t> labels, ScoreView scores, FixedLabels fixed) {
    // Summed in the order of `predictability`: rounding is monotone, so with terms of at most 0
    // replaced by 0 the sum cannot come out smaller.
    std::vector<float> filled(scores.values.begin(), scores.values.end());
    for (float& score : filled) {
        if (std::isnan(score)) score = 0.0F;
    }
    return utility(objective, weights, graph, labels, {filled, scores.n_labels}, fixed);
}

std::vector<double> adjusted_scores(Objective objective, std::span<const std::int32_t> labels,
                                    ScoreView scores, std::span<const double> shares,
                                    FixedLabels fixed) {
    std::vector<double> adjusted(scores.values.begin(), scores.values.end());
    if (objective == Objective::kCalibrated) {
        const auto labelled = log_marginal(labels, scores, Marginal::kLabelled, fixed);
        const auto all = log_marginal(labels, scores, Marginal::kAll, fixed);
        for (std::size_t k = 0; k < adjusted.size(); ++k) {
            const bool has_label = labels[k / scores.n_labels] != kUnlabelled;
            adjusted[k] -= (has_label ? labelled : all)[k % scores.n_labels];
            if (!shares.empty()) adjusted[k] += std::log(shares[k % scores.n_labels]);
        }
    }
    return adjusted;
}

std::int32_t argmax(std::span<const double> row) {
    return static_cast<std::int32_t>(std::ranges::max_element(row) - row.begin());
}

}  // namespace icm_fast::engine
