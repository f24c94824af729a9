// How the annealer picks its next move.
#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/annealer.hpp"

namespace icm_fast::engine {
void Annealer::propose() {
    if (has_converged()) {
        finish("converged");
    } else if (iteration_ >= settings_.max_iterations) {
        finish("max_iterations");
    } else if (spent()) {
        finish("max_evaluations");
    } else if (!settings_.has_large_moves()) {
        propose_drawn();
    } else if (!(propose_sweep() || propose_disagreeing() || propose_grow() ||
                 propose_unlabelled() || propose_fix())) {
        finish("settled");
    }
}

// Algorithm 1: draw any example and propose its argmax. A draw that changes nothing is free.
void Annealer::propose_drawn() {
    const auto weights = draw_weights(graph_, state_.labels, settings_.group_weight);
    const std::int32_t example = draw_weighted(weights, rng_, Purpose::kDraw, step() + 1, 0);
    if (favourite(example) == state_.labels[index(example)] && n_violations_ == 0) {
        ++iteration_;
        ++null_draws_;
        return;
    }
    begin_single(example);
}

// All labelled examples of every constraint component that holds a disagreement, at once.
bool Annealer::propose_sweep() {
    const Examples wrong = disagreeing();
    if (!settings_.sweep || tried_.sweep || wrong.empty()) {
        return false;
    }
    Examples labelled;
    for (std::int32_t i = 0; i < graph_.n_examples(); ++i) {
        if (state_.labels[index(i)] != kUnlabelled) {
            labelled.push_back(i);
        }
    }
    Examples members;
    for (const Examples& component : graph_.components(labelled)) {
        if (std::ranges::any_of(
                component, [&](std::int32_t i) { return std::ranges::binary_search(wrong, i); })) {
            members.insert(members.end(), component.begin(), component.end());
        }
    }
    std::ranges::sort(members);
    Labels labels = assign_jointly(graph_, state_.labels, members, adjusted_);
    // A state that was left is not returned to: two labellings of nearly equal utility would else
    // alternate for ever.
    if (visited_.contains(labels)) {
        tried_.sweep = true;
        return false;
    }
    begin({.move = Move::kSweep, .labels = std::move(labels)});
    return true;
}

// The labelled example that disagrees most with its argmax, of those not tried in this state.
bool Annealer::propose_disagreeing() {
    Examples open = disagreeing();
    std::erase_if(open, [&](std::int32_t i) {
        return tried_.singles[index(i)] || visited_.contains(with_favourite(i));
    });
    const auto tries = std::ranges::count(tried_.singles, true);
    if (!settings_.single || open.empty() || tries >= settings_.single_tries) {
        return false;
    }
    // max_element takes the first of equals, i.e. the lowest example.
    begin_single(*std::ranges::max_element(open, {}, [&](std::int32_t i) { return gain(i); }));
    return true;
}

double Annealer::gain(std::int32_t example) const {
    const std::size_t row = index(example) * index(graph_.n_labels());
    return adjusted_[row + index(favourite(example))] -
           adjusted_[row + index(state_.labels[index(example)])];
}

// Without grow moves, unlabelled examples come in one by one.
bool Annealer::propose_unlabelled() {
    if (settings_.grow || !settings_.single) {
        return false;
    }
    std::vector<std::uint64_t> weights =
        draw_weights(graph_, state_.labels, settings_.group_weight);
    for (std::size_t i = 0; i < weights.size(); ++i) {
        if (state_.labels[i] != kUnlabelled || tried_.singles[i]) {
            weights[i] = 0;
        }
    }
    if (std::ranges::all_of(weights, [](std::uint64_t weight) { return weight == 0; })) {
        return false;
    }
    begin_single(draw_weighted(weights, rng_, Purpose::kDraw, step() + 1, 0));
    return true;
}

// Always taken: P(D) is a mean, so the utilities of labellings of different sizes do not compare,
// and a complete labelling is the aim.
bool Annealer::propose_grow() {
    if (!settings_.grow || state_.n_labelled == graph_.n_examples()) {
        return false;
    }
    const std::int64_t size = next_grow_size();
    Labels labels = assign_jointly(graph_, state_.labels, pick_growth(size), adjusted_);
    begin({.move = Move::kGrow, .labels = std::move(labels)});
    return true;
}

bool Annealer::propose_fix() {
    if (tried_.fix || n_violations_ == 0 || settings_.fix_rounds == 0) {
        return false;
    }
    begin({.move = Move::kFix, .labels = state_.labels});
    return true;
}

void Annealer::begin_single(std::int32_t example) {
    begin({.move = Move::kSingle, .labels = with_favourite(example), .example = example});
}

void Annealer::begin(Proposal proposal) {
    ++iteration_;
    const bool fixes = proposal.move == Move::kSingle || proposal.move == Move::kFix;
    phase_ = fixes ? Phase::kFix : Phase::kDecide;
    proposal_ = std::move(proposal);
    known_.clear();
    known_.emplace(state_.labels, Evaluation{state_.scores, state_.utility});
}

std::int64_t Annealer::next_grow_size() const {
    const double wanted =
        std::floor(settings_.growth * static_cast<double>(state_.n_labelled) + 0.5);
    const auto rest = static_cast<double>(graph_.n_examples() - state_.n_labelled);
    return static_cast<std::int64_t>(std::min(rest, std::max(1.0, wanted)));
}

// Weighted draws without replacement; those drawn count as labelled for the weights that follow.
Examples Annealer::pick_growth(std::int64_t size) const {
    Labels marked = state_.labels;
    Examples picked;
    for (std::uint32_t k = 0; k < size; ++k) {
        std::vector<std::uint64_t> weights = draw_weights(graph_, marked, settings_.group_weight);
        for (std::size_t i = 0; i < weights.size(); ++i) {
            weights[i] = marked[i] == kUnlabelled ? weights[i] : 0;
        }
        picked.push_back(draw_weighted(weights, rng_, Purpose::kGrowPick, step() + 1, k));
        marked[index(picked.back())] = 0;
    }
    std::ranges::sort(picked);
    return picked;
}

}  // namespace icm_fast::engine
