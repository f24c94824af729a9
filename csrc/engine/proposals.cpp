// How the annealer picks its next move.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/annealer.hpp"

namespace icm_fast::engine {
void Annealer::propose() {
    if (has_converged()) {
        if (!propose_restart()) end("converged");
    } else if (iteration_ >= settings_.max_iterations) {
        end("max_iterations");
    } else if (spent()) {
        end("max_evaluations");
    } else if (!settings_.has_large_moves()) {
        propose_drawn();
    } else if (!(propose_sweep() || propose_group() || propose_disagreeing() || propose_grow() ||
                 propose_unlabelled() || propose_fix() || propose_restart())) {
        end("settled");
    }
}

// Algorithm 1: draw any example and propose its argmax. Draws that change nothing are skipped, and
// an unlabelled example is scored when it is drawn.
void Annealer::propose_drawn() {
    const Draw draw = next_draw();
    const std::int64_t rest = settings_.max_iterations - iteration_;
    if (draw.null_draws >= rest) {
        iteration_ += rest;
        null_draws_ += rest;
        return;
    }
    if (!is_scored(state_, draw.example)) {
        std::vector<bool> rows = rows_for(state_.labels);
        for (std::int32_t i = 0; i < graph_.n_examples(); ++i) {
            rows[index(i)] = rows[index(i)] && !is_scored(state_, i);
        }
        pending_ = Ask{state_.labels, kExact, std::move(rows), true};
        return;
    }
    iteration_ += draw.null_draws;
    null_draws_ += draw.null_draws;
    n_unlabelled_draws_ += state_.labels[index(draw.example)] == kUnlabelled;
    begin_single(draw.example);
}

// Every draw picks an example by its weight; where it proposes what is there, nothing happens and
// the next one has the same odds. So the number of such draws is geometric, and it is drawn at
// once. Draws of the purpose kDraw: 0 their number, 1 and 2 the kind and the place of the example.
Annealer::Draw Annealer::next_draw() const {
    const auto weights = draw_weights(graph_, state_.labels, settings_.group_weight);
    // With a violation every draw may change something: ConsistencyFix runs.
    Examples changing;
    std::uint64_t total = 0;
    std::uint64_t unlabelled = 0;
    for (std::int32_t i = 0; i < graph_.n_examples(); ++i) {
        total += weights[index(i)];
        if (state_.labels[index(i)] == kUnlabelled) {
            unlabelled += weights[index(i)];
        } else if (n_violations_ > 0 || favourite(i) != state_.labels[index(i)]) {
            changing.push_back(i);
        }
    }
    const std::uint64_t real = unlabelled + changing.size();
    std::int64_t null_draws = 0;
    if (real < total) {
        const double p = static_cast<double>(real) / static_cast<double>(total);
        const double u = rng_.uniform(Purpose::kDraw, step() + 1, 0);
        const double drawn = std::floor(std::log1p(-u) / std::log1p(-p));
        null_draws = static_cast<std::int64_t>(std::min(drawn, 0x1p52));
    }
    const std::uint64_t place = rng_.bounded(Purpose::kDraw, step() + 1, 1, real);
    if (place < unlabelled) {
        return {next_unlabelled(keep_unlabelled(weights, state_.labels), n_unlabelled_draws_),
                null_draws};
    }
    const std::uint64_t k = rng_.bounded(Purpose::kDraw, step() + 1, 2, changing.size());
    return {changing[k], null_draws};
}

// The unlabelled example that comes after `n_drawn` others; -1 if all are labelled.
std::int32_t Annealer::next_unlabelled(std::span<const std::uint64_t> weights,
                                       std::int64_t n_drawn) const {
    if (std::ranges::all_of(weights, [](std::uint64_t weight) { return weight == 0; })) return -1;
    return draw_weighted(weights, rng_, Purpose::kDrawUnlabelled,
                         static_cast<std::uint64_t>(n_drawn), 0);
}

// The best labelling so far with some constraint components relabelled at random, each as
// consistently as it can be.
bool Annealer::propose_restart() {
    if (n_restarts_ >= settings_.restarts || iteration_ >= settings_.max_iterations || spent()) {
        return false;
    }
    ++n_restarts_;
    const Labels& from = best_.labels;
    const Examples labelled = labelled_examples(from);
    auto components = graph_.components(labelled);
    const double wanted = settings_.kick * static_cast<double>(labelled.size());
    Examples members;
    for (std::uint32_t k = 0; k < components.size() && static_cast<double>(members.size()) < wanted;
         ++k) {
        const std::uint64_t rest = components.size() - k;
        std::swap(components[k],
                  components[k + rng_.bounded(Purpose::kKickPick, step() + 1, k, rest)]);
        members.insert(members.end(), components[k].begin(), components[k].end());
    }
    std::ranges::sort(members);
    std::vector<double> random(adjusted_.size());
    for (std::uint32_t k = 0; k < random.size(); ++k) {
        random[k] = rng_.uniform(Purpose::kKickScore, step() + 1, k);
    }
    begin({.move = Move::kRestart, .labels = assign_jointly(graph_, from, members, random)});
    return true;
}

// All labelled examples of every constraint component that holds a disagreement, at once.
bool Annealer::propose_sweep() {
    const Examples wrong = disagreeing();
    if (!settings_.sweep || tried_.sweep || wrong.empty()) {
        return false;
    }
    Examples members;
    for (const Examples& component : graph_.components(labelled_examples(state_.labels))) {
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

// The constraint component with a disagreement that gains most from its best joint assignment.
bool Annealer::propose_group() {
    if (!settings_.group || tried_.n_small >= settings_.single_tries) {
        return false;
    }
    const Examples wrong = disagreeing();
    Proposal best{.move = Move::kGroup};
    double best_gain = -std::numeric_limits<double>::infinity();
    for (const Examples& component : graph_.components(labelled_examples(state_.labels))) {
        const auto is_open = [&](std::int32_t i) {
            return std::ranges::binary_search(wrong, i) && !tried_.singles[index(i)];
        };
        if (std::ranges::none_of(component, is_open)) continue;
        Labels labels = assign_jointly(graph_, state_.labels, component, adjusted_);
        const double gained = gain(labels);
        // A component whose best assignment is the present one has nothing to offer.
        if (labels == state_.labels || visited_.contains(labels) || gained <= best_gain) continue;
        best_gain = gained;
        best.labels = std::move(labels);
        best.examples = component;
    }
    if (best.examples.empty()) return false;
    begin(std::move(best));
    return true;
}

// The labelled example that disagrees most with its argmax, of those not tried in this state.
bool Annealer::propose_disagreeing() {
    Examples open = disagreeing();
    std::erase_if(open, [&](std::int32_t i) {
        return tried_.singles[index(i)] || visited_.contains(with_favourite(i));
    });
    if (!settings_.single || open.empty() || tried_.n_small >= settings_.single_tries) {
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

double Annealer::gain(const Labels& labels) const {
    double total = 0.0;
    for (std::size_t i = 0; i < labels.size(); ++i) {
        if (labels[i] == state_.labels[i]) continue;
        const std::size_t row = i * index(graph_.n_labels());
        total += adjusted_[row + index(labels[i])] - adjusted_[row + index(state_.labels[i])];
    }
    return total;
}

// Without grow moves, unlabelled examples come in one by one.
bool Annealer::propose_unlabelled() {
    if (settings_.grow || !settings_.single) {
        return false;
    }
    std::vector<std::uint64_t> weights =
        keep_unlabelled(draw_weights(graph_, state_.labels, settings_.group_weight), state_.labels);
    for (std::size_t i = 0; i < weights.size(); ++i) {
        if (tried_.singles[i]) weights[i] = 0;
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
    begin({.move = Move::kSingle, .labels = with_favourite(example), .examples = {example}});
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
        const auto weights =
            keep_unlabelled(draw_weights(graph_, marked, settings_.group_weight), marked);
        picked.push_back(draw_weighted(weights, rng_, Purpose::kGrowPick, step() + 1, k));
        marked[index(picked.back())] = 0;
    }
    std::ranges::sort(picked);
    return picked;
}

}  // namespace icm_fast::engine
