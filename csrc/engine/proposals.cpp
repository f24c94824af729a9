#include "engine/proposals.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "engine/unlabelled_draws.hpp"

namespace icm_fast::engine {

void Proposals::enter(const State& state) {
    state_ = &state;
    favourites_.enter(state);
    visited_.insert(state.labels);
    n_violations_ = problem_.graph.count_violations(state.labels);
    tried_ = {};
    tried_.examples.assign(state.labels.size(), false);
}

void Proposals::reject(const Proposal& proposal) {
    if (proposal.move == Move::kSweep) tried_.sweep = true;
    if (proposal.move == Move::kFix) tried_.fix = true;
    for (const std::int32_t example : proposal.examples) tried_.examples[index(example)] = true;
    if (!proposal.examples.empty()) ++tried_.n_small;
}

bool Proposals::has_converged() const {
    const bool may_fix = n_violations_ > 0 && !problem_.settings.is_quiet();
    return state_->n_labelled == problem_.graph.n_examples() && !may_fix &&
           favourites_.disagreeing().empty();
}

std::optional<Proposal> Proposals::next(std::uint64_t step) {
    std::optional<Proposal> found = sweep();
    if (!found) found = group();
    if (!found) found = disagreeing_single();
    if (!found) found = grow(step);
    if (!found) found = unlabelled_single(step);
    if (!found) found = fix();
    return found;
}

// ---- Labelled examples --------------------------------------------------------------------------

// All labelled examples of every constraint component that holds a disagreement, at once. Known
// labels belong to no component: they part what they join, and constrain it from outside.
std::optional<Proposal> Proposals::sweep() {
    const Examples wrong = favourites_.disagreeing();
    if (!problem_.settings.moves.sweep || tried_.sweep || wrong.empty()) return std::nullopt;
    const auto is_wrong = [&](std::int32_t i) { return std::ranges::binary_search(wrong, i); };
    Examples members;
    for (const Examples& component : components()) {
        if (std::ranges::any_of(component, is_wrong)) {
            members.insert(members.end(), component.begin(), component.end());
        }
    }
    std::ranges::sort(members);
    Labels labels = best_labels(members);
    // A state that was left is not returned to: two labellings of nearly equal utility would
    // alternate for ever.
    if (visited_.contains(labels)) {
        tried_.sweep = true;
        return std::nullopt;
    }
    return Proposal{.move = Move::kSweep, .labels = std::move(labels)};
}

// The constraint component with a disagreement that gains most from its best joint assignment.
std::optional<Proposal> Proposals::group() const {
    if (!problem_.settings.moves.group || !may_try_small()) return std::nullopt;
    const Examples wrong = favourites_.disagreeing();
    const auto is_open = [&](std::int32_t i) {
        return std::ranges::binary_search(wrong, i) && !tried_.examples[index(i)];
    };
    Proposal best{.move = Move::kGroup};
    double best_gain = -std::numeric_limits<double>::infinity();
    for (const Examples& component : components()) {
        if (std::ranges::none_of(component, is_open)) continue;
        Labels labels = best_labels(component);
        const double gained = favourites_.gain(labels);
        // A component whose best assignment is the present one has nothing to offer.
        if (labels == state_->labels || visited_.contains(labels) || gained <= best_gain) continue;
        best_gain = gained;
        best.labels = std::move(labels);
        best.examples = component;
    }
    if (best.examples.empty()) return std::nullopt;
    return best;
}

// The labelled example that disagrees most with its favourite, of those not tried in this state.
std::optional<Proposal> Proposals::disagreeing_single() const {
    if (!problem_.settings.moves.single || !may_try_small()) return std::nullopt;
    Examples open = favourites_.disagreeing();
    std::erase_if(open, [&](std::int32_t i) {
        return tried_.examples[index(i)] || visited_.contains(favourites_.with_favourite(i));
    });
    if (open.empty()) return std::nullopt;
    // max_element takes the first of equals, i.e. the lowest example.
    return single(
        *std::ranges::max_element(open, {}, [&](std::int32_t i) { return favourites_.gain(i); }));
}

std::optional<Proposal> Proposals::fix() const {
    if (tried_.fix || n_violations_ == 0 || problem_.settings.fix_rounds == 0) return std::nullopt;
    return Proposal{.move = Move::kFix, .labels = state_->labels};
}

Proposal Proposals::single(std::int32_t example) const {
    return {.move = Move::kSingle,
            .labels = favourites_.with_favourite(example),
            .examples = {example}};
}

std::vector<Examples> Proposals::components() const {
    return problem_.graph.components(problem_.changeable(state_->labels));
}

Labels Proposals::best_labels(const Examples& members) const {
    return assign_jointly(problem_.graph, state_->labels, members, favourites_.adjusted());
}

bool Proposals::may_try_small() const { return tried_.n_small < problem_.settings.single_tries; }

// ---- Unlabelled examples ------------------------------------------------------------------------

// Always taken: P(D) is a mean, so the utilities of labellings of different sizes do not compare,
// and a complete labelling is the aim.
std::optional<Proposal> Proposals::grow(std::uint64_t step) const {
    if (!problem_.settings.moves.grow || state_->n_labelled == problem_.graph.n_examples()) {
        return std::nullopt;
    }
    return Proposal{.move = Move::kGrow, .labels = best_labels(pick_growth(growth_size(), step))};
}

std::int64_t Proposals::growth_size() const {
    const double wanted =
        std::floor(problem_.settings.growth * static_cast<double>(state_->n_labelled) + 0.5);
    const auto rest = static_cast<double>(problem_.graph.n_examples() - state_->n_labelled);
    return static_cast<std::int64_t>(std::min(rest, std::max(1.0, wanted)));
}

// Weighted draws without replacement; those drawn count as labelled for the weights that follow.
Examples Proposals::pick_growth(std::int64_t size, std::uint64_t step) const {
    Labels marked = state_->labels;
    Examples picked;
    for (std::uint32_t k = 0; k < size; ++k) {
        const auto open = keep_unlabelled(weights(marked), marked);
        picked.push_back(draw_weighted(open, problem_.rng, Purpose::kGrowPick, step, k));
        marked[index(picked.back())] = 0;
    }
    std::ranges::sort(picked);
    return picked;
}

// Without grow moves, unlabelled examples come in one by one.
std::optional<Proposal> Proposals::unlabelled_single(std::uint64_t step) const {
    const MoveKinds& moves = problem_.settings.moves;
    if (moves.grow || !moves.single) return std::nullopt;
    auto open = keep_unlabelled(weights(state_->labels), state_->labels);
    for (std::size_t i = 0; i < open.size(); ++i) {
        if (tried_.examples[i]) open[i] = 0;
    }
    if (std::ranges::all_of(open, [](std::uint64_t weight) { return weight == 0; })) {
        return std::nullopt;
    }
    return single(draw_weighted(open, problem_.rng, Purpose::kDraw, step, 0));
}

std::vector<std::uint64_t> Proposals::weights(const Labels& labels) const {
    auto drawn = draw_weights(problem_.graph, labels, problem_.settings.group_weight);
    for (std::size_t i = 0; i < drawn.size(); ++i) {
        if (problem_.fixed[i] != kUnlabelled) drawn[i] = 0;
    }
    return drawn;
}

// ---- The paper's draw ---------------------------------------------------------------------------

// Every draw picks an example by its weight; where it proposes what is there, nothing happens and
// the next one has the same odds. So the number of such draws is geometric, and it is drawn at
// once. Draws of the purpose kDraw: 0 their number, 1 and 2 the kind and the place of the example.
Draw Proposals::draw(std::uint64_t step, std::int64_t n_unlabelled_draws) const {
    auto all = weights(state_->labels);
    const std::uint64_t total = std::accumulate(all.begin(), all.end(), std::uint64_t{0});
    // Labelled examples have weight 1, or 0 where their label is known.
    const std::uint64_t unlabelled = total - problem_.changeable(state_->labels).size();
    const Examples labelled = changing();
    const std::uint64_t real = unlabelled + labelled.size();
    const std::int64_t null_draws = count_null_draws(real, total, step);
    if (problem_.rng.bounded(Purpose::kDraw, step, 1, real) < unlabelled) {
        const auto open = keep_unlabelled(std::move(all), state_->labels);
        return {next_unlabelled(problem_, open, n_unlabelled_draws), null_draws};
    }
    const std::uint64_t k = problem_.rng.bounded(Purpose::kDraw, step, 2, labelled.size());
    return {labelled[k], null_draws};
}

// Labelled examples that a draw may change, known ones never: with a violation all others, for
// ConsistencyFix runs unless null draws are quiet.
Examples Proposals::changing() const {
    const bool may_fix = n_violations_ > 0 && !problem_.settings.is_quiet();
    return may_fix ? problem_.changeable(state_->labels) : favourites_.disagreeing();
}

// How often a draw changes nothing before one does; `real` of the `total` weight change something.
std::int64_t Proposals::count_null_draws(std::uint64_t real, std::uint64_t total,
                                         std::uint64_t step) const {
    if (real >= total) return 0;
    const double p = static_cast<double>(real) / static_cast<double>(total);
    const double u = problem_.rng.uniform(Purpose::kDraw, step, 0);
    const double drawn = std::floor(std::log1p(-u) / std::log1p(-p));
    return static_cast<std::int64_t>(std::min(drawn, 0x1p52));
}

// ---- Restarts -----------------------------------------------------------------------------------

// Components with random scores, each labelled as consistently as it can be.
Proposal Proposals::restart(const Labels& from, std::uint64_t step) const {
    std::vector<double> random(problem_.n_examples() * problem_.n_labels());
    for (std::uint32_t k = 0; k < random.size(); ++k) {
        random[k] = problem_.rng.uniform(Purpose::kKickScore, step, k);
    }
    return {.move = Move::kRestart,
            .labels = assign_jointly(problem_.graph, from, pick_kicked(from, step), random)};
}

// Whole components in random order, until they hold the share `kick` of the labelled examples
// that may change.
Examples Proposals::pick_kicked(const Labels& from, std::uint64_t step) const {
    const Examples labelled = problem_.changeable(from);
    auto components = problem_.graph.components(labelled);
    const double wanted = problem_.settings.kick * static_cast<double>(labelled.size());
    Examples members;
    for (std::uint32_t k = 0; k < components.size() && static_cast<double>(members.size()) < wanted;
         ++k) {
        const std::uint64_t rest = components.size() - k;
        const std::uint64_t other = problem_.rng.bounded(Purpose::kKickPick, step, k, rest);
        std::swap(components[k], components[k + other]);
        members.insert(members.end(), components[k].begin(), components[k].end());
    }
    std::ranges::sort(members);
    return members;
}

}  // namespace icm_fast::engine
