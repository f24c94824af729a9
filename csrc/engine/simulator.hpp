// Searches without a model: scores come from a formula that behaves like leave-one-out scores do.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/annealer.hpp"

namespace icm_fast::engine {

// What a language model knows of a task, as numbers. With m other labelled examples in the context,
// of which `right` have their true label, the model follows the direction
//     c = (prior_strength * prior_count + right - wrong) / (prior_count + m)
// and gives example i the log-probabilities, up to normalisation,
//     trust * c * evidence[i, y] + lean * log((count_y + 1) / (m + n_labels)).
// Labels that agree with one another are thus predictable whether they are right or all wrong, and
// a context of one label pulls towards it.
struct SyntheticTask {
    std::vector<std::int32_t> truth;  // [n_examples]
    std::vector<float> evidence;      // [n_examples * n_labels]
    double prior_strength = 0.3;      // c without demonstrations
    double prior_count = 4.0;         // demonstrations that weigh as much as the prior
    double trust = 4.0;
    double lean = 0.5;

    // Throws std::invalid_argument unless sizes and values fit the graph.
    void check(const ConstraintGraph& graph) const;
};

// Log-probabilities [n_examples * n_labels] of a labelling.
[[nodiscard]] std::vector<float> synthetic_scores(const SyntheticTask& task, std::int32_t n_labels,
                                                  std::span<const std::int32_t> labels);

// One finished search. The counts have one entry per number of labelled examples, 0 to n_examples:
// what an evaluation costs depends on it.
struct SimulatedSearch {
    Labels labels;
    double utility = 0.0;
    double true_utility = 0.0;  // U of the true labels
    std::string reason;
    std::int64_t n_iterations = 0;
    std::vector<std::int64_t> evaluations;  // distinct labellings scored
    std::vector<std::int64_t> asks;         // labellings that the search needed, repeats included
    std::vector<std::int64_t> null_draws;   // draws that proposed what was there
    std::vector<std::int64_t> lookups;      // asks for unlabelled examples alone
    std::vector<std::int64_t> extra_rows;   // unlabelled examples scored, in all of these
};

[[nodiscard]] SimulatedSearch simulate(ConstraintGraph graph, const SearchSettings& settings,
                                       const SyntheticTask& task);

}  // namespace icm_fast::engine
