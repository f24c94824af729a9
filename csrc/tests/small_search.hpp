// Small problems and states for the tests of the engine's parts.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/problem.hpp"
#include "engine/state.hpp"
#include "tests/check.hpp"

namespace icm_fast::tests {

using engine::Labels;

// `n_pairs` pairs of neighbours (0, 1), (2, 3), ..., of which at most one may have the label 1.
inline engine::ConstraintGraph neighbours(std::int32_t n_examples, std::int32_t n_pairs) {
    std::vector<std::int32_t> pairs;
    std::vector<std::uint8_t> tables;
    for (std::int32_t k = 0; k < n_pairs; ++k) {
        pairs.insert(pairs.end(), {2 * k, 2 * k + 1});
        tables.insert(tables.end(), {1, 1, 1, 0});
    }
    return {n_examples, 2, pairs, tables};
}

// Two-label log-probabilities [n_examples * 2]: -1 for the label that an example prefers, -1 - gap
// for the other.
inline std::vector<float> preferring(const Labels& favourites, const std::vector<float>& gaps) {
    std::vector<float> scores;
    for (std::size_t i = 0; i < favourites.size(); ++i) {
        const float other = -1.0F - gaps[i];
        const bool prefers_first = favourites[i] == 0;
        scores.insert(scores.end(), {prefers_first ? -1.0F : other, prefers_first ? other : -1.0F});
    }
    return scores;
}

inline engine::State make_state(const engine::Problem& problem, Labels labels,
                                std::vector<float> scores) {
    const engine::SearchSettings& s = problem.settings;
    const double utility = engine::utility(s.objective, s.weights(), problem.graph, labels,
                                           {scores, problem.n_labels()}, problem.fixed);
    const std::int64_t n_labelled = engine::count_labelled(labels);
    return {std::move(labels), std::move(scores), utility, n_labelled};
}

// Fails unless the call throws std::invalid_argument with a message that holds `text`.
template <typename Call>
void check_invalid(const std::string& text, const Call& call) {
    try {
        call();
    } catch (const std::invalid_argument& error) {
        if (std::string(error.what()).find(text) != std::string::npos) return;
        FAIL("expected '", text, "', got '", error.what(), "'");
    }
    FAIL("nothing was refused; expected '", text, "'");
}

}  // namespace icm_fast::tests
