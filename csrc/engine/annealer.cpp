#include "engine/annealer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace icm_fast::engine {
namespace {

// Unlabelled examples scored beside a labelling: the next ones to be drawn as long as nothing is
// accepted. One query each, where a later one would encode all demonstrations again.
constexpr std::int64_t kLookAhead = 4;

void check(bool holds, const char* text) {
    if (!holds) {
        throw std::invalid_argument(text);
    }
}

std::vector<bool> labelled_rows(const Labels& labels) {
    std::vector<bool> rows(labels.size());
    for (std::size_t i = 0; i < labels.size(); ++i) rows[i] = labels[i] != kUnlabelled;
    return rows;
}

// Whether a move is taken whatever its utility.
bool is_forced(Move move) { return move == Move::kGrow || move == Move::kRestart; }

// Whether all scores of the given rows are there.
bool covers(std::span<const float> scores, std::size_t n_labels, const std::vector<bool>& rows) {
    for (std::size_t k = 0; k < scores.size(); ++k) {
        if (rows[k / n_labels] && std::isnan(scores[k])) return false;
    }
    return true;
}

void check(const SearchSettings& s) {
    check(std::isfinite(s.alpha), "alpha must be finite");
    check(s.schedule.initial >= 0 && s.schedule.minimum >= 0 && s.schedule.cooling >= 0,
          "temperatures and cooling must be at least 0");
    check(s.n_initial >= 1, "n_initial must be at least 1");
    check(s.prior_weight >= 0 && std::isfinite(s.prior_weight),
          "prior_weight must be finite and at least 0");
    check(s.fix_rounds >= 0, "fix_rounds must be at least 0");
    check(s.group_weight >= 1, "group_weight must be at least 1");
    check(s.single_tries >= 1, "single_tries must be at least 1");
    check(s.growth >= 0 && std::isfinite(s.growth), "growth must be finite and at least 0");
    check(s.max_iterations >= 0 && s.max_evaluations >= 0,
          "max_iterations and max_evaluations must be at least 0");
    check(s.single || s.group || s.sweep || s.grow,
          "moves is empty; name single, group, sweep or grow");
    check(std::ranges::all_of(s.label_shares, [](double share) { return share > 0 && share <= 1; }),
          "label_shares must lie in (0, 1]");
    check(s.restarts >= 0, "restarts must be at least 0");
    check(s.kick > 0 && s.kick <= 1, "kick must lie in (0, 1]");
    check(s.initial_labels.empty() || !s.start_zero_shot,
          "initial_labels need start=given, not zero-shot");
}

void check_initial(const Labels& labels, std::size_t n_examples, std::int32_t n_labels) {
    check(labels.empty() || labels.size() == n_examples, "initial_labels must be [n_examples]");
    check(std::ranges::all_of(labels,
                              [&](std::int32_t y) { return y >= kUnlabelled && y < n_labels; }),
          "initial_labels must lie in -1 .. n_labels - 1");
    check(labels.empty() || count_labelled(labels) > 0, "initial_labels label no example");
}

}  // namespace

const char* move_name(Move move) {
    switch (move) {
        case Move::kInit:
            return "init";
        case Move::kSingle:
            return "single";
        case Move::kGroup:
            return "group";
        case Move::kSweep:
            return "sweep";
        case Move::kGrow:
            return "grow";
        case Move::kFix:
            return "fix";
        case Move::kRestart:
            return "restart";
        case Move::kDone:
            break;
    }
    return "done";
}

Annealer::Annealer(ConstraintGraph graph, SearchSettings settings)
    : graph_(std::move(graph)), settings_(std::move(settings)), rng_(settings_.seed) {
    check(settings_);
    check(settings_.label_shares.empty() || std::ssize(settings_.label_shares) == graph_.n_labels(),
          "label_shares must have one number per label");
    const auto n = index(graph_.n_examples());
    check_initial(settings_.initial_labels, n, graph_.n_labels());
    const Evaluation nothing{std::vector<float>(n * index(graph_.n_labels()), 0.0F), 0.0};
    set_state(Labels(n, kUnlabelled), nothing);
    best_ = state_;
    if (settings_.needs_prior()) {
        phase_ = Phase::kPrior;
        pending_ = Ask{state_.labels, kExact, std::vector<bool>(n, true)};
        return;
    }
    proposal_.labels = first_labels();
    advance();
}

// The labels of a start that asks the model nothing.
Labels Annealer::first_labels() const {
    if (!settings_.initial_labels.empty()) return settings_.initial_labels;
    return initial_labels(graph_.n_examples(), graph_.n_labels(), settings_.n_initial, rng_);
}

// What the model says without any demonstration: where the search starts, or what its proposals
// lean on.
void Annealer::tell_prior(std::span<const float> scores) {
    check(covers(scores, index(graph_.n_labels()), pending_->rows), "scores must be finite");
    prior_ = adjusted_scores(settings_.objective, state_.labels, {scores, index(graph_.n_labels())},
                             settings_.label_shares);
    if (settings_.start_zero_shot) {
        Examples everyone(state_.labels.size());
        std::iota(everyone.begin(), everyone.end(), 0);
        proposal_.labels = assign_jointly(graph_, state_.labels, everyone, prior_);
    } else {
        proposal_.labels = first_labels();
    }
    phase_ = Phase::kFix;
}

void Annealer::tell(std::span<const float> scores) {
    check(pending_.has_value(), "tell() without an ask: the search is over");
    check(scores.size() == state_.scores.size(), "scores must be [n_examples, n_labels]");
    check(std::ranges::none_of(scores, [](float s) { return std::isinf(s); }),
          "scores must be finite, or NaN where they are not needed");
    if (phase_ == Phase::kPrior) {
        tell_prior(scores);
        ++n_asks_;
    } else if (pending_->is_lookup) {
        tell_lookup(scores);
    } else {
        Evaluation evaluation = evaluate(scores);
        known_.emplace(std::move(pending_->labels), std::move(evaluation));
        ++n_asks_;
        ++n_evaluations_;
    }
    pending_.reset();
    advance();
}

// Scores of more examples under labels whose utility is known.
void Annealer::tell_lookup(std::span<const float> scores) {
    const std::size_t n_labels = index(graph_.n_labels());
    check(covers(scores, n_labels, pending_->rows),
          "scores must be finite where they are asked for");
    State& state = phase_ == Phase::kFinish && settings_.return_best ? best_ : state_;
    for (std::size_t k = 0; k < scores.size(); ++k) {
        if (std::isnan(state.scores[k]) && !std::isnan(scores[k])) {
            state.scores[k] = scores[k];
            if (&state == &state_) adjusted_[k] = static_cast<double>(scores[k]);
        }
    }
}

Annealer::Evaluation Annealer::evaluate(std::span<const float> scores) const {
    const std::size_t n_labels = index(graph_.n_labels());
    const Labels& labels = pending_->labels;
    Evaluation evaluation{std::vector<float>(scores.begin(), scores.end()), 0.0};
    evaluation.is_whole = covers(scores, n_labels, labelled_rows(labels));
    if (evaluation.is_whole) {
        evaluation.utility =
            utility(settings_.objective, settings_.alpha, graph_, labels, {scores, n_labels});
        // What else was asked for serves the proposals from an accepted state.
        check(settings_.is_lazy() || evaluation.utility < pending_->threshold ||
                  covers(scores, n_labels, pending_->rows),
              "scores must be finite where they are asked for");
        return evaluation;
    }
    check(std::isfinite(pending_->threshold),
          "scores must be finite for every labelled example: the utility is needed exactly");
    check(has_bound(settings_.objective),
          "scores must be finite for every labelled example: the objective has no bound");
    evaluation.utility =
        utility_bound(settings_.objective, settings_.alpha, graph_, labels, {scores, n_labels});
    check(evaluation.utility < pending_->threshold,
          "scores lack labelled examples, but do not show that the candidate is rejected");
    return evaluation;
}

bool Annealer::may_reject() const {
    return pending_ && !pending_->is_lookup && std::isfinite(pending_->threshold) &&
           has_bound(settings_.objective);
}

bool Annealer::rejects(std::span<const float> scores) const {
    if (!may_reject()) {
        return false;
    }
    check(scores.size() == state_.scores.size(), "scores must be [n_examples, n_labels]");
    return utility_bound(settings_.objective, settings_.alpha, graph_, pending_->labels,
                         {scores, index(graph_.n_labels())}) < pending_->threshold;
}

std::vector<Event> Annealer::take_events() { return std::exchange(events_, {}); }

double Annealer::temperature() const {
    return settings_.schedule.temperature(iteration_, n_accepted_);
}

// Steps that need an answer leave `pending_` set and are entered again once it is in `known_`.
void Annealer::advance() {
    while (!pending_ && phase_ != Phase::kDone) {
        switch (phase_) {
            case Phase::kPropose:
                propose();
                break;
            case Phase::kFix:
                fix_round();
                break;
            case Phase::kDecide:
                decide();
                break;
            case Phase::kFinish:
                finish();
                break;
            case Phase::kPrior:
            case Phase::kDone:
                break;
        }
    }
}

void Annealer::end(std::string reason) {
    phase_ = Phase::kFinish;
    ending_ = std::move(reason);
}

void Annealer::stop(std::string reason) {
    if (phase_ == Phase::kFinish || phase_ == Phase::kDone) return;
    pending_.reset();
    end(std::move(reason));
    advance();
}

// Scores that the result lacks are asked for; then the search is over.
void Annealer::finish() {
    std::vector<bool> missing(state_.labels.size());
    for (std::int32_t i = 0; i < graph_.n_examples(); ++i) {
        missing[index(i)] = !is_scored(result(), i);
    }
    if (std::ranges::find(missing, true) != missing.end()) {
        pending_ = Ask{result().labels, kExact, std::move(missing), true};
        return;
    }
    phase_ = Phase::kDone;
    reason_ = ending_;
    Event event;
    event.iteration = iteration_;
    event.move = Move::kDone;
    event.temperature = temperature();
    event.utility_before = event.utility_candidate = event.utility_after = state_.utility;
    event.threshold = kExact;
    event.n_labelled = state_.n_labelled;
    event.n_violations = n_violations_;
    event.n_asks = n_asks_;
    event.null_draws = std::exchange(null_draws_, 0);
    event.reason = reason_;
    events_.push_back(std::move(event));
}

// ---- ConsistencyFix -----------------------------------------------------------------------------

// One round of Algorithm 2: the best allowed labels of a random violated pair, if they help.
void Annealer::fix_round() {
    const auto violated = graph_.violated(proposal_.labels);
    if (violated.empty() || proposal_.fix_round >= settings_.fix_rounds) {
        phase_ = Phase::kDecide;
        return;
    }
    const std::int32_t pair =
        violated[rng_.bounded(Purpose::kFixPair, step(), proposal_.fix_round, violated.size())];
    const std::optional<Labels> fixed = best_fix(pair);
    if (fixed) {
        proposal_.labels = *fixed;
        ++proposal_.fix_round;
    }
}

// The candidate after this round; empty as long as a utility is missing.
std::optional<Labels> Annealer::best_fix(std::int32_t pair) {
    const Evaluation* current = known_or_ask(proposal_.labels, kExact);
    if (current == nullptr) {
        return std::nullopt;
    }
    const Evaluation* best = nullptr;
    Labels best_labels;
    for (const Labels& option : fix_options(pair)) {
        const Evaluation* evaluation = known_or_ask(option, kExact);
        if (evaluation == nullptr) {
            return std::nullopt;
        }
        if (best == nullptr || evaluation->utility > best->utility) {
            best = evaluation;
            best_labels = option;
        }
    }
    const bool helps =
        best != nullptr && (best->utility > current->utility ||
                            (settings_.fix_accepts_ties && best->utility == current->utility));
    return helps ? best_labels : proposal_.labels;
}

std::vector<Labels> Annealer::fix_options(std::int32_t pair) const {
    std::vector<LabelPair> allowed = graph_.allowed(pair);
    if (!settings_.fix_both_false && allowed.size() > 1) {
        std::erase_if(allowed, [](LabelPair p) { return p.first == 0 && p.second == 0; });
    }
    const LabelPair ends = graph_.ends(pair);
    std::vector<Labels> options;
    for (const LabelPair labels : allowed) {
        options.push_back(proposal_.labels);
        options.back()[index(ends.first)] = labels.first;
        options.back()[index(ends.second)] = labels.second;
    }
    return options;
}

// ---- Decisions ----------------------------------------------------------------------------------

void Annealer::decide() {
    const double threshold = draw_threshold();
    const Evaluation* evaluation = known_or_ask(proposal_.labels, threshold);
    if (evaluation == nullptr) {
        return;
    }
    Event event = event_of(evaluation->utility, threshold);
    event.accepted = evaluation->is_whole && evaluation->utility >= threshold;
    event.abandoned = !evaluation->is_whole;
    if (event.accepted && !event.changes.empty()) {
        adopt(proposal_.labels, *evaluation);
    } else {
        remember_rejection();
    }
    log_decision(std::move(event));
}

Event Annealer::event_of(double candidate, double threshold) {
    Event event;
    event.iteration = iteration_;
    event.move = proposal_.move;
    event.temperature = temperature();
    event.changes = changes_between(state_.labels, proposal_.labels);
    event.utility_before = state_.utility;
    event.utility_candidate = candidate;
    event.threshold = threshold;
    event.forced = is_forced(proposal_.move);
    event.null_draws = std::exchange(null_draws_, 0);
    return event;
}

void Annealer::log_decision(Event event) {
    event.utility_after = state_.utility;
    event.n_labelled = state_.n_labelled;
    event.n_violations = n_violations_;
    event.n_asks = n_asks_;
    events_.push_back(std::move(event));
    phase_ = Phase::kPropose;
}

// log(u) <= 0, so the threshold never exceeds U, and a rise of U always passes it.
double Annealer::draw_threshold() const {
    if (proposal_.move == Move::kInit || is_forced(proposal_.move)) {
        return kExact;
    }
    const double u = rng_.uniform(Purpose::kAccept, step(), 0);
    if (u == 0.0) {
        return kExact;
    }
    return std::min(state_.utility, state_.utility + temperature() * std::log(u));
}

void Annealer::adopt(const Labels& labels, const Evaluation& evaluation) {
    n_accepted_ += proposal_.move != Move::kInit;
    set_state(labels, evaluation);
    const bool is_best = state_.n_labelled != best_.n_labelled
                             ? state_.n_labelled > best_.n_labelled
                             : state_.utility > best_.utility;
    if (is_best) {
        best_ = state_;
    }
}

void Annealer::remember_rejection() {
    switch (proposal_.move) {
        case Move::kSweep:
            tried_.sweep = true;
            break;
        case Move::kSingle:
        case Move::kGroup:
            for (const std::int32_t example : proposal_.examples) {
                tried_.singles[index(example)] = true;
            }
            ++tried_.n_small;
            break;
        case Move::kFix:
            tried_.fix = true;
            break;
        case Move::kGrow:
        case Move::kRestart:
        case Move::kInit:
        case Move::kDone:
            break;
    }
}

// The evaluation, or null after asking for it (or after stopping because the budget is spent).
const Annealer::Evaluation* Annealer::known_or_ask(const Labels& labels, double threshold) {
    const auto found = known_.find(labels);
    if (found != known_.end()) {
        return &found->second;
    }
    if (spent()) {
        stop_for_budget();
    } else {
        pending_ = Ask{labels, threshold, rows_for(labels)};
    }
    return nullptr;
}

// The move under way is dropped; the initial state, which must exist, is taken as far as fixed.
void Annealer::stop_for_budget() {
    if (proposal_.move == Move::kInit) {
        phase_ = Phase::kDecide;
    } else {
        end("max_evaluations");
    }
}

// ---- The state ----------------------------------------------------------------------------------

void Annealer::set_state(const Labels& labels, const Evaluation& evaluation) {
    state_ = {labels, evaluation.scores, evaluation.utility, count_labelled(labels)};
    adjusted_ = adjusted_scores(settings_.objective, state_.labels,
                                {state_.scores, index(graph_.n_labels())}, settings_.label_shares);
    for (std::size_t k = 0; k < prior_.size(); ++k) {
        adjusted_[k] += settings_.prior_weight * prior_[k];
    }
    visited_.insert(labels);
    n_violations_ = graph_.count_violations(state_.labels);
    tried_ = {};
    tried_.singles.assign(labels.size(), false);
}

std::vector<bool> Annealer::rows_for(const Labels& labels) const {
    if (!settings_.is_lazy()) {
        return std::vector<bool>(labels.size(), true);
    }
    std::vector<bool> rows = labelled_rows(labels);
    const auto weights =
        keep_unlabelled(draw_weights(graph_, labels, settings_.group_weight), labels);
    for (std::int64_t k = 0; k < kLookAhead; ++k) {
        const std::int32_t example = next_unlabelled(weights, n_unlabelled_draws_ + k);
        if (example >= 0) rows[index(example)] = true;
    }
    return rows;
}

bool Annealer::is_scored(const State& state, std::int32_t example) const {
    return !std::isnan(state.scores[index(example) * index(graph_.n_labels())]);
}

bool Annealer::has_converged() const {
    return state_.n_labelled == graph_.n_examples() && n_violations_ == 0 && disagreeing().empty();
}

// The label that an example's scores prefer.
std::int32_t Annealer::favourite(std::int32_t example) const {
    const std::size_t n_labels = index(graph_.n_labels());
    return argmax(std::span(adjusted_).subspan(index(example) * n_labels, n_labels));
}

Examples Annealer::disagreeing() const {
    Examples found;
    for (std::int32_t i = 0; i < graph_.n_examples(); ++i) {
        const std::int32_t label = state_.labels[index(i)];
        if (label != kUnlabelled && label != favourite(i)) {
            found.push_back(i);
        }
    }
    return found;
}

Labels Annealer::with_favourite(std::int32_t example) const {
    Labels labels = state_.labels;
    labels[index(example)] = favourite(example);
    return labels;
}

bool Annealer::spent() const {
    return settings_.max_evaluations > 0 && n_evaluations_ >= settings_.max_evaluations;
}

}  // namespace icm_fast::engine
