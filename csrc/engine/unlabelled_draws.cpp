#include "engine/unlabelled_draws.hpp"

#include <algorithm>

namespace icm_fast::engine {
namespace {

// Unlabelled examples scored beside a labelling: the next ones to be drawn as long as nothing is
// accepted. One query each, where a later one would encode all demonstrations again.
constexpr std::int64_t kLookAhead = 4;

}  // namespace

std::int32_t next_unlabelled(const Problem& problem, std::span<const std::uint64_t> weights,
                             std::int64_t n_drawn) {
    if (std::ranges::all_of(weights, [](std::uint64_t weight) { return weight == 0; })) return -1;
    return draw_weighted(weights, problem.rng, Purpose::kDrawUnlabelled,
                         static_cast<std::uint64_t>(n_drawn), 0);
}

std::vector<bool> rows_to_score(const Problem& problem, const Labels& labels,
                                std::int64_t n_drawn) {
    if (!problem.settings.is_lazy()) return std::vector<bool>(labels.size(), true);
    std::vector<bool> rows = labelled_rows(labels);
    const auto weights =
        keep_unlabelled(draw_weights(problem.graph, labels, problem.settings.group_weight), labels);
    for (std::int64_t k = 0; k < kLookAhead; ++k) {
        const std::int32_t example = next_unlabelled(problem, weights, n_drawn + k);
        if (example >= 0) rows[index(example)] = true;
    }
    return rows;
}

}  // namespace icm_fast::engine
