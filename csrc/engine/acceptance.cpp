#include "engine/acceptance.hpp"

#include <algorithm>
#include <cmath>

#include "engine/objective.hpp"
#include "engine/require.hpp"

namespace icm_fast::engine {

// log(u) <= 0, so the threshold never exceeds U, and a rise of U always passes it.
double Acceptance::threshold(Move move, double utility, double temperature,
                             std::uint64_t step) const {
    if (move == Move::kInit || is_forced(move)) return kExact;
    const double u = problem_.rng.uniform(Purpose::kAccept, step, 0);
    if (u == 0.0) return kExact;
    return std::min(utility, utility + temperature * std::log(u));
}

Evaluation Acceptance::evaluate(const Ask& ask, std::span<const float> scores) const {
    const SearchSettings& s = problem_.settings;
    Evaluation evaluation{.scores = {scores.begin(), scores.end()}};
    evaluation.is_whole = covers(scores, labelled_rows(ask.labels));
    if (evaluation.is_whole) {
        evaluation.utility = utility(s.objective, s.weights(), problem_.graph, ask.labels,
                                     view(scores), problem_.fixed);
        // What else was requested serves the proposals from an accepted state.
        if (!s.is_lazy() && evaluation.utility >= ask.threshold) check_covered(ask, scores);
        return evaluation;
    }
    require(std::isfinite(ask.threshold),
            "scores must be finite for every labelled example: the utility is needed exactly");
    require(has_bound(s.objective),
            "scores must be finite for every labelled example: the objective has no bound");
    evaluation.utility = bound(ask, scores);
    require(evaluation.utility < ask.threshold,
            "scores lack labelled examples, but do not show that the candidate is rejected");
    return evaluation;
}

void Acceptance::check_covered(const Ask& ask, std::span<const float> scores) const {
    require(covers(scores, ask.rows), "scores must be finite where they are requested");
}

bool Acceptance::may_reject(const Ask& ask) const {
    return !ask.is_lookup && std::isfinite(ask.threshold) && has_bound(problem_.settings.objective);
}

bool Acceptance::rejects(const Ask& ask, std::span<const float> scores) const {
    return may_reject(ask) && bound(ask, scores) < ask.threshold;
}

// Whether all scores of the given rows are there.
bool Acceptance::covers(std::span<const float> scores, const std::vector<bool>& rows) const {
    for (std::size_t k = 0; k < scores.size(); ++k) {
        if (rows[k / problem_.n_labels()] && std::isnan(scores[k])) return false;
    }
    return true;
}

double Acceptance::bound(const Ask& ask, std::span<const float> scores) const {
    const SearchSettings& s = problem_.settings;
    return utility_bound(s.objective, s.weights(), problem_.graph, ask.labels, view(scores),
                         problem_.fixed);
}

}  // namespace icm_fast::engine
