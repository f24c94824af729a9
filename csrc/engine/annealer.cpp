#include "engine/annealer.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "engine/objective.hpp"
#include "engine/require.hpp"
#include "engine/unlabelled_draws.hpp"

namespace icm_fast::engine {
namespace {

// Moves in a row that neither ask nor change anything, after which a search is over. Only where a
// violation cannot be fixed do they come without an end, and each of them is logged.
constexpr std::int64_t kMostIdle = 100'000;

State unlabelled_state(const Problem& problem) {
    return {.labels = Labels(problem.n_examples(), kUnlabelled),
            .scores = std::vector<float>(problem.n_examples() * problem.n_labels(), 0.0F)};
}

// Whether each row is scored for all labels or for none: its first score stands for all of them.
bool has_whole_rows(std::span<const float> scores, std::size_t n_labels) {
    for (std::size_t k = 0; k < scores.size(); ++k) {
        if (std::isnan(scores[k]) != std::isnan(scores[k - k % n_labels])) return false;
    }
    return true;
}

}  // namespace

Annealer::Annealer(ConstraintGraph graph, SearchSettings settings)
    : problem_(std::move(graph), std::move(settings)),
      state_(unlabelled_state(problem_)),
      best_(state_) {
    proposals_.enter(state_);
    if (problem_.settings.needs_prior()) {
        phase_ = Phase::kPrior;
        pending_ =
            Ask{.labels = problem_.fixed, .rows = std::vector<bool>(problem_.n_examples(), true)};
        return;
    }
    begin_init(first_labels());
    advance();
}

// ---- Answers ------------------------------------------------------------------------------------

void Annealer::tell(std::span<const float> scores) {
    if (!pending_) throw std::invalid_argument("tell() without an ask: the search is over");
    require(scores.size() == state_.scores.size(), "scores must be [n_examples, n_labels]");
    require(std::ranges::none_of(scores, [](float s) { return std::isinf(s); }),
            "scores must be finite, or NaN where they are not needed");
    require(has_whole_rows(scores, index(problem_.n_labels())),
            "scores of an example must be finite for all labels, or NaN for all");
    if (phase_ == Phase::kPrior) {
        tell_prior(*pending_, scores);
    } else if (pending_->is_lookup) {
        tell_lookup(*pending_, scores);
    } else {
        tell_evaluation(*pending_, scores);
    }
    pending_.reset();
    n_idle_ = 0;
    advance();
}

// What the model says without any demonstration but the known ones: where the search starts, or
// what its proposals lean on.
void Annealer::tell_prior(const Ask& ask, std::span<const float> scores) {
    acceptance_.check_covered(ask, scores);
    std::vector<double> prior =
        adjusted_scores(settings().objective, ask.labels, {scores, problem_.n_labels()},
                        settings().label_shares, problem_.fixed);
    if (settings().start == Start::kZeroShot) {
        const Examples open = unlabelled_examples(ask.labels);
        begin_init(assign_jointly(problem_.graph, ask.labels, open, prior));
    } else {
        begin_init(first_labels());
    }
    proposals_.lean_on(std::move(prior));
    ++n_asks_;
}

// Scores of more examples under labels whose utility is known.
void Annealer::tell_lookup(const Ask& ask, std::span<const float> scores) {
    acceptance_.check_covered(ask, scores);
    State& state = phase_ == Phase::kFinish && settings().return_best ? best_ : state_;
    for (std::size_t k = 0; k < scores.size(); ++k) {
        if (!std::isnan(state.scores[k]) || std::isnan(scores[k])) continue;
        state.scores[k] = scores[k];
        if (&state == &state_) proposals_.learn(k, scores[k]);
    }
}

void Annealer::tell_evaluation(Ask& ask, std::span<const float> scores) {
    Evaluation evaluation = acceptance_.evaluate(ask, scores);
    known_.emplace(std::move(ask.labels), std::move(evaluation));
    ++n_asks_;
    ++n_evaluations_;
}

bool Annealer::rejects(std::span<const float> scores) const {
    if (!pending_ || !may_reject()) return false;
    require(scores.size() == state_.scores.size(), "scores must be [n_examples, n_labels]");
    return acceptance_.rejects(*pending_, scores);
}

// ---- Phases -------------------------------------------------------------------------------------

void Annealer::advance() {
    while (!pending_ && phase_ != Phase::kDone) {
        switch (phase_) {
            case Phase::kPropose:
                propose();
                break;
            case Phase::kFix:
                fix();
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

void Annealer::propose() {
    if (proposals_.has_converged() || n_idle_ >= kMostIdle) {
        if (!propose_restart()) end("converged");
    } else if (iteration_ >= settings().max_iterations) {
        end("max_iterations");
    } else if (is_spent()) {
        end("max_evaluations");
    } else if (settings().moves.has_large()) {
        propose_large();
    } else {
        propose_drawn();
    }
}

void Annealer::propose_large() {
    std::optional<Proposal> proposal = proposals_.next(step() + 1);
    if (proposal) {
        begin(std::move(*proposal));
    } else if (!propose_restart()) {
        end("settled");
    }
}

// Algorithm 1: draw any example and propose its argmax. Draws that change nothing are skipped, and
// an unlabelled example is scored when it is drawn.
void Annealer::propose_drawn() {
    const Draw draw = proposals_.draw(step() + 1, n_unlabelled_draws_);
    const std::int64_t rest = settings().max_iterations - iteration_;
    if (draw.null_draws >= rest) {
        skip(rest);
        return;
    }
    if (!state_.is_scored(draw.example)) {
        look_up(state_, rows_to_score(problem_, state_.labels, n_unlabelled_draws_));
        return;
    }
    skip(draw.null_draws);
    if (state_.labels[index(draw.example)] == kUnlabelled) ++n_unlabelled_draws_;
    begin(proposals_.single(draw.example));
}

// Continues from the best state, as often as the settings allow.
bool Annealer::propose_restart() {
    if (n_restarts_ >= settings().restarts || iteration_ >= settings().max_iterations ||
        is_spent()) {
        return false;
    }
    ++n_restarts_;
    begin(proposals_.restart(best_.labels, step() + 1));
    return true;
}

void Annealer::fix() {
    std::optional<Labels> missing = fix_.advance(known_);
    if (missing && !is_spent()) {
        ask_for(std::move(*missing), fix_.threshold());
    } else if (missing && proposal_.move != Move::kInit) {
        end("max_evaluations");
    } else {
        // An initial state must exist: without a budget it is taken as far as it is fixed.
        proposal_.labels = fix_.take();
        phase_ = Phase::kDecide;
    }
}

void Annealer::decide() {
    const double threshold =
        acceptance_.threshold(proposal_.move, state_.utility, temperature(), step());
    const auto found = known_.find(proposal_.labels);
    if (found == known_.end()) {
        if (is_spent()) {
            end("max_evaluations");
        } else {
            ask_for(proposal_.labels, threshold);
        }
        return;
    }
    const Evaluation& candidate = found->second;
    Event event = event_of(proposal_.move);
    event.changes = changes_between(state_.labels, proposal_.labels);
    event.utility_candidate = candidate.utility;
    event.threshold = threshold;
    event.accepted = Acceptance::accepts(candidate, threshold);
    event.forced = is_forced(proposal_.move);
    event.abandoned = !candidate.is_whole;
    if (event.accepted && proposal_.move != Move::kInit) ++n_acceptances_;
    if (event.accepted && !event.changes.empty()) {
        adopt(candidate);
    } else {
        proposals_.reject(proposal_);
        ++n_idle_;
    }
    log(std::move(event));
    phase_ = Phase::kPropose;
}

// Scores that the result lacks are requested; then the search is over.
void Annealer::finish() {
    std::vector<bool> missing(state_.labels.size());
    for (std::int32_t i = 0; i < graph().n_examples(); ++i) {
        missing[index(i)] = !result().is_scored(i);
    }
    if (std::ranges::find(missing, true) != missing.end()) {
        look_up(result(), std::move(missing));
        return;
    }
    phase_ = Phase::kDone;
    reason_ = ending_;
    Event event = event_of(Move::kDone);
    event.utility_candidate = state_.utility;
    event.threshold = kExact;
    event.reason = reason_;
    log(std::move(event));
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

// ---- Moves and states ---------------------------------------------------------------------------

// The labels of a start that asks the model nothing.
Labels Annealer::first_labels() const {
    const SearchSettings& s = settings();
    if (s.initial_labels.empty()) {
        return s.initial_groups
                   ? initial_group_labels(graph(), problem_.fixed, s.n_initial, problem_.rng)
                   : initial_labels(problem_.fixed, graph().n_labels(), s.n_initial, problem_.rng);
    }
    Labels labels = s.initial_labels;
    for (std::size_t i = 0; i < labels.size(); ++i) {
        if (problem_.fixed[i] != kUnlabelled) labels[i] = problem_.fixed[i];
    }
    return labels;
}

void Annealer::begin_init(Labels labels) {
    proposal_ = {.move = Move::kInit};
    fix_.begin(std::move(labels), step());
    phase_ = Phase::kFix;
}

void Annealer::begin(Proposal proposal) {
    ++iteration_;
    proposal_ = std::move(proposal);
    known_.clear();
    known_.emplace(state_.labels, Evaluation{.scores = state_.scores, .utility = state_.utility});
    if (is_fixed(proposal_.move)) {
        const bool is_new = proposal_.move == Move::kSingle;
        fix_.begin(std::move(proposal_.labels), step(),
                   is_new ? FixStart::kNewLabel : FixStart::kKnown);
        phase_ = Phase::kFix;
    } else {
        phase_ = Phase::kDecide;
    }
}

void Annealer::skip(std::int64_t null_draws) {
    iteration_ += null_draws;
    null_draws_ += null_draws;
}

void Annealer::ask_for(Labels labels, double threshold) {
    std::vector<bool> rows = rows_to_score(problem_, labels, n_unlabelled_draws_);
    pending_ = Ask{.labels = std::move(labels), .threshold = threshold, .rows = std::move(rows)};
}

// Asks for those of the rows of a state that are not scored.
void Annealer::look_up(const State& state, std::vector<bool> rows) {
    for (std::int32_t i = 0; i < graph().n_examples(); ++i) {
        rows[index(i)] = rows[index(i)] && !state.is_scored(i);
    }
    pending_ = Ask{.labels = state.labels, .rows = std::move(rows), .is_lookup = true};
}

void Annealer::adopt(const Evaluation& evaluation) {
    if (proposal_.move != Move::kInit) ++n_accepted_;
    n_idle_ = 0;
    state_ = {.labels = proposal_.labels,
              .scores = evaluation.scores,
              .utility = evaluation.utility,
              .n_labelled = count_labelled(proposal_.labels)};
    proposals_.enter(state_);
    const bool is_best = state_.n_labelled != best_.n_labelled
                             ? state_.n_labelled > best_.n_labelled
                             : state_.utility > best_.utility;
    if (is_best) best_ = state_;
}

bool Annealer::is_spent() const {
    return settings().max_evaluations > 0 && n_evaluations_ >= settings().max_evaluations;
}

double Annealer::temperature() const {
    return settings().schedule.temperature(
        {.iterations = iteration_, .n_accepted = n_accepted_, .acceptances = n_acceptances_});
}

// ---- The log ------------------------------------------------------------------------------------

// An event with what is known before its decision.
Event Annealer::event_of(Move move) {
    Event event;
    event.iteration = iteration_;
    event.move = move;
    event.temperature = temperature();
    event.utility_before = state_.utility;
    event.null_draws = std::exchange(null_draws_, 0);
    return event;
}

// Adds what is known after it.
void Annealer::log(Event event) {
    event.utility_after = state_.utility;
    event.n_labelled = state_.n_labelled;
    event.n_violations = proposals_.n_violations();
    event.n_asks = n_asks_;
    events_.push_back(std::move(event));
}

std::vector<Event> Annealer::take_events() { return std::exchange(events_, {}); }

}  // namespace icm_fast::engine
