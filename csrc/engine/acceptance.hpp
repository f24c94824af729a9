// Whether a candidate is accepted: its utility, or what bounds it, against a random threshold.
//
// Utilities and thresholds in the units of alpha P(D).
#pragma once

#include <cstdint>
#include <span>

#include "engine/moves.hpp"
#include "engine/problem.hpp"
#include "engine/state.hpp"

namespace icm_fast::engine {

// Pure functions of the problem, which it borrows; thread-safe.
class Acceptance {
  public:
    explicit Acceptance(const Problem& problem) : problem_(problem) {}

    // What a candidate has to reach from a state of this utility; kExact where the move is taken
    // anyhow.
    [[nodiscard]] double threshold(Move move, double utility, double temperature,
                                   std::uint64_t step) const;
    // Whether all scores are there and reach the threshold.
    [[nodiscard]] static bool accepts(const Evaluation& candidate, double threshold) {
        return candidate.is_whole && candidate.utility >= threshold;
    }

    // The evaluation of an answered ask. Scores [n_examples * n_labels], NaN where they are not
    // given. Throws std::invalid_argument where they do not suffice: those of labelled examples may
    // be missing only if the rest shows that the candidate is rejected.
    [[nodiscard]] Evaluation evaluate(const Ask& ask, std::span<const float> scores) const;
    // Throws std::invalid_argument unless every row that the ask names is scored.
    void check_covered(const Ask& ask, std::span<const float> scores) const;

    // Whether scores that lack labelled examples can show that the candidate will be rejected. Only
    // objectives that sum log-probabilities, which are at most 0, have a bound.
    [[nodiscard]] bool may_reject(const Ask& ask) const;
    // Whether these do.
    [[nodiscard]] bool rejects(const Ask& ask, std::span<const float> scores) const;

  private:
    [[nodiscard]] ScoreView view(std::span<const float> scores) const {
        return {scores, problem_.n_labels()};
    }
    [[nodiscard]] bool covers(std::span<const float> scores, const std::vector<bool>& rows) const;
    [[nodiscard]] double bound(const Ask& ask, std::span<const float> scores) const;

    const Problem& problem_;
};

}  // namespace icm_fast::engine
