// Simulated annealing over labellings as an ask/tell state machine.
//
// The machine asks for the scores of a labelling, is told them, and decides. Its decisions are a
// pure function of (constraints, settings, scores). It never calls out. What it tries comes from
// Proposals, what ConsistencyFix makes of that from there, and Acceptance decides; the machine
// keeps the states, the phase and the log.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/acceptance.hpp"
#include "engine/consistency_fix.hpp"
#include "engine/moves.hpp"
#include "engine/problem.hpp"
#include "engine/proposals.hpp"
#include "engine/state.hpp"

namespace icm_fast::engine {

// One step of the search. Utilities in the units of alpha P(D); threshold -inf: accepted anyhow.
struct Event {
    std::int64_t iteration = 0;
    Move move = Move::kInit;
    double temperature = 0.0;
    std::vector<LabelChange> changes;  // proposed; they hold if `accepted`
    double utility_before = 0.0;
    double utility_candidate = 0.0;
    double utility_after = 0.0;  // of the state after the decision
    double threshold = 0.0;
    bool accepted = false;
    bool forced = false;
    // Rejected before all labelled examples were scored: `utility_candidate` is an upper bound.
    bool abandoned = false;
    std::int64_t n_labelled = 0;    // after the decision
    std::int64_t n_violations = 0;  // after the decision
    std::int64_t n_asks = 0;        // answered so far
    std::int64_t null_draws = 0;    // since the event before
    std::string reason;             // of kDone
};

// Owns all its data. Not thread-safe: one thread at a time may use an Annealer; different ones have
// nothing in common. It stays where it was made, since its parts borrow from it.
class Annealer {
  public:
    // Throws std::invalid_argument for settings out of range.
    Annealer(ConstraintGraph graph, SearchSettings settings);
    Annealer(const Annealer&) = delete;
    Annealer& operator=(const Annealer&) = delete;
    Annealer(Annealer&&) = delete;
    Annealer& operator=(Annealer&&) = delete;
    ~Annealer() = default;

    // What is to be told next; the same until it is told; empty when the search is over.
    [[nodiscard]] const std::optional<Ask>& ask() const { return pending_; }

    // Answers the ask with scores [n_examples * n_labels], row-major, and continues to the next
    // ask. Rows that are not requested may be NaN. Those of labelled examples may be NaN too if the
    // rest shows that the candidate is rejected. Throws std::invalid_argument (state unchanged) on
    // bad scores or without an ask.
    void tell(std::span<const float> scores);

    // Whether scores that lack labelled examples (NaN) show by the bound that the candidate will be
    // rejected. Only objectives that sum log-probabilities have a bound.
    [[nodiscard]] bool rejects(std::span<const float> scores) const;
    // Whether that can happen for the present ask.
    [[nodiscard]] bool may_reject() const { return pending_ && acceptance_.may_reject(*pending_); }

    // Ends the search for a reason of the caller's; the ask and its move are dropped. At most
    // scores that the result lacks are requested afterwards. Nothing happens once a search has
    // ended.
    void stop(std::string reason);

    // Events since the last call, oldest first.
    [[nodiscard]] std::vector<Event> take_events();

    [[nodiscard]] const ConstraintGraph& graph() const { return problem_.graph; }
    // The current state; before the first ask is answered nothing is labelled.
    [[nodiscard]] const State& state() const { return state_; }
    // The best state seen (most labelled, then highest utility) or the current one, by settings.
    [[nodiscard]] const State& result() const { return settings().return_best ? best_ : state_; }
    [[nodiscard]] double temperature() const;
    [[nodiscard]] std::int64_t iteration() const { return iteration_; }
    [[nodiscard]] std::int64_t n_asks() const { return n_asks_; }
    [[nodiscard]] std::int64_t n_accepted() const { return n_accepted_; }
    [[nodiscard]] bool done() const { return phase_ == Phase::kDone; }
    // "converged", "settled", "max_iterations", "max_evaluations"; empty while running.
    [[nodiscard]] const std::string& reason() const { return reason_; }

  private:
    enum class Phase { kPrior, kPropose, kFix, kDecide, kFinish, kDone };

    [[nodiscard]] const SearchSettings& settings() const { return problem_.settings; }
    [[nodiscard]] std::uint64_t step() const { return static_cast<std::uint64_t>(iteration_); }

    // Answers.
    void tell_prior(const Ask& ask, std::span<const float> scores);
    void tell_lookup(const Ask& ask, std::span<const float> scores);
    void tell_evaluation(Ask& ask, std::span<const float> scores);

    // Phases. Each moves on to another one, or sets `pending_` and is entered again once that is
    // answered.
    void advance();
    void propose();
    void fix();
    void decide();
    void finish();

    void propose_drawn();
    void propose_large();
    bool propose_restart();
    void begin(Proposal proposal);
    void begin_init(Labels labels);
    void skip(std::int64_t null_draws);
    void ask_for(Labels labels, double threshold);
    void look_up(const State& state, std::vector<bool> rows);
    void adopt(const Evaluation& evaluation);
    void end(std::string reason);
    [[nodiscard]] Labels first_labels() const;
    [[nodiscard]] bool is_spent() const;

    [[nodiscard]] Event event_of(Move move);
    void log(Event event);

    const Problem problem_;
    const Acceptance acceptance_{problem_};
    Proposals proposals_{problem_};
    ConsistencyFix fix_{problem_};

    State state_;
    State best_;
    Phase phase_ = Phase::kFix;
    Proposal proposal_;  // the move under way
    Evaluations known_;  // within that move
    std::optional<Ask> pending_;
    std::vector<Event> events_;
    std::string ending_;  // the reason, while the last scores are requested
    std::string reason_;
    std::int64_t iteration_ = 0;
    std::int64_t n_asks_ = 0;
    std::int64_t n_evaluations_ = 0;  // asks for a utility
    std::int64_t n_accepted_ = 0;     // changes
    std::int64_t n_acceptances_ = 0;  // proposals, also those that the fix led back to the state
    std::int64_t n_unlabelled_draws_ = 0;
    std::int64_t n_restarts_ = 0;
    std::int64_t n_idle_ = 0;      // moves in a row that asked nothing and changed nothing
    std::int64_t null_draws_ = 0;  // since the last event
};

}  // namespace icm_fast::engine
