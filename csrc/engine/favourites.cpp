#include "engine/favourites.hpp"

#include <utility>

#include "engine/objective.hpp"

namespace icm_fast::engine {

void Favourites::lean_on(std::vector<double> prior) { prior_ = std::move(prior); }

void Favourites::enter(const State& state) {
    const SearchSettings& settings = problem_.settings;
    state_ = &state;
    adjusted_ =
        adjusted_scores(settings.objective, state.labels, {state.scores, problem_.n_labels()},
                        settings.label_shares, problem_.fixed);
    for (std::size_t k = 0; k < prior_.size(); ++k) {
        adjusted_[k] += settings.prior_weight * prior_[k];
    }
}

void Favourites::learn(std::size_t entry, float score) {
    adjusted_[entry] = static_cast<double>(score);
}

std::int32_t Favourites::of(std::int32_t example) const {
    const std::size_t n_labels = problem_.n_labels();
    return argmax(adjusted().subspan(index(example) * n_labels, n_labels));
}

Examples Favourites::disagreeing() const {
    Examples found;
    for (std::int32_t i = 0; i < problem_.graph.n_examples(); ++i) {
        const std::int32_t label = state_->labels[index(i)];
        if (label != kUnlabelled && problem_.is_free(i) && label != of(i)) found.push_back(i);
    }
    return found;
}

double Favourites::gain(std::int32_t example) const {
    const std::size_t i = index(example);
    return score(i, of(example)) - score(i, state_->labels[i]);
}

double Favourites::gain(std::span<const std::int32_t> labels) const {
    double total = 0.0;
    for (std::size_t i = 0; i < labels.size(); ++i) {
        if (labels[i] == state_->labels[i]) continue;
        total += score(i, labels[i]) - score(i, state_->labels[i]);
    }
    return total;
}

Labels Favourites::with_favourite(std::int32_t example) const {
    Labels labels = state_->labels;
    labels[index(example)] = of(example);
    return labels;
}

}  // namespace icm_fast::engine
