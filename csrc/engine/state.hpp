// What a search knows: labellings with their scores and utilities, and what it asks for.
//
// Values that own their vectors; scores are LOO log-probabilities in natural log, float32,
// utilities in the units of alpha P(D).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

#include "engine/labeling.hpp"

namespace icm_fast::engine {

// Threshold of an ask whose utility is needed exactly, and of a move that is taken anyhow.
inline constexpr double kExact = -std::numeric_limits<double>::infinity();

// The state of a search: a labelling with what is known of it.
struct State {
    Labels labels;              // [n_examples]
    std::vector<float> scores;  // [n_examples * n_labels]; NaN where not scored
    double utility = 0.0;
    std::int64_t n_labelled = 0;

    [[nodiscard]] bool is_scored(std::int32_t example) const {
        const std::size_t n_labels = scores.size() / labels.size();
        return !std::isnan(scores[index(example) * n_labels]);
    }
};

// What was told of a labelling.
struct Evaluation {
    std::vector<float> scores = {};  // [n_examples * n_labels]; NaN where not scored
    double utility = 0.0;            // an upper bound unless `is_whole`
    bool is_whole = true;            // every labelled example is scored
};

using Evaluations = std::map<Labels, Evaluation>;

// A labelling whose scores the search needs.
struct Ask {
    Labels labels = {};
    // A utility below this one leads to rejection of the candidate, or of an option of the fix, so
    // scoring may stop there; or kExact.
    double threshold = kExact;
    std::vector<bool> rows = {};  // [n_examples]: the examples whose scores are needed
    // Only the scores are wanted, of a labelling whose utility is known.
    bool is_lookup = false;
};

}  // namespace icm_fast::engine
