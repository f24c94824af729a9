// Simulated annealing over labellings as an ask/tell state machine.
//
// The machine asks for the scores of a labelling, is told them, and decides. Its decisions are a
// pure function of (constraints, settings, scores). It owns all its data and never calls out. Not
// thread-safe: one thread at a time may use an Annealer; different Annealers are independent.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "engine/constraints.hpp"
#include "engine/labeling.hpp"
#include "engine/objective.hpp"
#include "engine/rng.hpp"
#include "engine/schedule.hpp"

namespace icm_fast::engine {

struct SearchSettings {
    Objective objective = Objective::kCalibrated;
    double alpha = 50.0;
    Schedule schedule;
    // Whether the search starts from every example's label under no demonstrations at all, instead
    // of `n_initial` random ones.
    bool start_zero_shot = false;
    std::int64_t n_initial = 8;
    Labels initial_labels = {};  // [n_examples]: where the search starts instead; or nothing
    // Expected share of each label, where it is known: proposals of the calibrated objective then
    // aim at these shares instead of equal ones. Empty, or one number above 0 per label.
    std::vector<double> label_shares = {};
    // Weight in proposals of the scores under no demonstrations, beside those of the current state.
    double prior_weight = 0.0;
    std::int64_t fix_rounds = 10;
    bool fix_both_false = true;
    bool fix_accepts_ties = false;
    std::uint64_t group_weight = 100;
    bool single = true;
    bool group = false;
    bool sweep = false;
    bool grow = false;
    double growth = 1.0;
    std::int64_t single_tries = 2;
    // How often a search that has settled goes on from its best labelling with the share `kick` of
    // the examples relabelled at random.
    std::int64_t restarts = 0;
    double kick = 0.25;
    // Whether unlabelled examples are scored only when a step draws them, where nothing else needs
    // their scores.
    bool lazy_queries = true;
    std::int64_t max_iterations = 1000;
    std::int64_t max_evaluations = 0;  // 0: no bound
    bool return_best = false;
    std::uint64_t seed = 0;

    // Whether moves follow the order sweep, group, single, grow instead of the paper's plain draw.
    [[nodiscard]] bool has_large_moves() const { return group || sweep || grow; }
    [[nodiscard]] bool needs_prior() const { return start_zero_shot || prior_weight > 0.0; }
    // The calibrated marginal of unlabelled examples averages over all of them, growth picks among
    // all: only the paper's draw gets along without.
    [[nodiscard]] bool is_lazy() const {
        return lazy_queries && !has_large_moves() && !needs_prior() &&
               objective != Objective::kCalibrated;
    }
};

enum class Move { kInit, kSingle, kGroup, kSweep, kGrow, kFix, kRestart, kDone };

[[nodiscard]] const char* move_name(Move move);

// Threshold of an ask whose utility is needed exactly.
inline constexpr double kExact = -std::numeric_limits<double>::infinity();

// A labelling whose scores the machine needs.
struct Ask {
    Labels labels;
    // A utility below this one leads to rejection, so scoring may stop there; or kExact.
    double threshold;
    std::vector<bool> rows;  // [n_examples]: the examples whose scores are needed
    // Only the scores are wanted, of a labelling whose utility is known.
    bool is_lookup = false;
};

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

// A labelling with what is known of it.
struct State {
    Labels labels;              // [n_examples]
    std::vector<float> scores;  // [n_examples * n_labels]; NaN where not scored
    double utility = 0.0;
    std::int64_t n_labelled = 0;
};

class Annealer {
  public:
    // Throws std::invalid_argument for settings out of range.
    Annealer(ConstraintGraph graph, SearchSettings settings);

    // What is to be told next; the same until it is told; empty when the search is over.
    [[nodiscard]] const std::optional<Ask>& ask() const { return pending_; }

    // Answers the ask with scores [n_examples * n_labels], row-major, and goes on to the next ask.
    // Rows that are not asked for may be NaN. Those of labelled examples may be NaN too if the rest
    // shows that the candidate is rejected. Throws std::invalid_argument (state unchanged) on bad
    // scores or without an ask.
    void tell(std::span<const float> scores);

    // Whether scores that lack labelled examples (NaN) show by the bound that the candidate will be
    // rejected. Only objectives that sum log-probabilities have a bound.
    [[nodiscard]] bool rejects(std::span<const float> scores) const;
    // Whether that can happen for the present ask.
    [[nodiscard]] bool may_reject() const;

    // Ends the search for a reason of the caller's; the ask and its move are dropped. At most
    // scores that the result lacks are asked for afterwards. Nothing happens once a search has
    // ended.
    void stop(std::string reason);

    // Events since the last call, oldest first.
    [[nodiscard]] std::vector<Event> take_events();

    [[nodiscard]] const ConstraintGraph& graph() const { return graph_; }
    // The current state; before the first ask is answered nothing is labelled.
    [[nodiscard]] const State& state() const { return state_; }
    // The best state seen (most labelled, then highest utility) or the current one, by settings.
    [[nodiscard]] const State& result() const { return settings_.return_best ? best_ : state_; }
    [[nodiscard]] double temperature() const;
    [[nodiscard]] std::int64_t iteration() const { return iteration_; }
    [[nodiscard]] std::int64_t n_asks() const { return n_asks_; }
    [[nodiscard]] std::int64_t n_accepted() const { return n_accepted_; }
    [[nodiscard]] bool done() const { return phase_ == Phase::kDone; }
    // "converged", "settled", "max_iterations", "max_evaluations"; empty while running.
    [[nodiscard]] const std::string& reason() const { return reason_; }

  private:
    enum class Phase { kPrior, kPropose, kFix, kDecide, kFinish, kDone };

    struct Evaluation {
        std::vector<float> scores;
        double utility;
        bool is_whole = true;  // every labelled example is scored
    };

    // The next draw that proposes a change, and how many that propose none come before it.
    struct Draw {
        std::int32_t example;
        std::int64_t null_draws;
    };

    struct Proposal {
        Move move = Move::kInit;
        Labels labels = {};
        Examples examples = {};  // of a single or group move
        std::uint32_t fix_round = 0;
    };

    // What was tried in vain since the state last changed.
    struct Tried {
        bool sweep = false;
        bool fix = false;
        std::vector<bool> singles;  // [n_examples]
        std::int64_t n_small = 0;   // single and group moves
    };

    void advance();
    void tell_prior(std::span<const float> scores);
    void tell_lookup(std::span<const float> scores);
    [[nodiscard]] Evaluation evaluate(std::span<const float> scores) const;
    void end(std::string reason);
    void finish();

    // Proposals: each starts a move, or returns false when it has nothing to try.
    [[nodiscard]] Labels first_labels() const;
    void propose();
    void propose_drawn();
    [[nodiscard]] Draw next_draw() const;
    [[nodiscard]] std::int32_t next_unlabelled(std::span<const std::uint64_t> weights,
                                               std::int64_t n_drawn) const;
    bool propose_restart();
    bool propose_sweep();
    bool propose_group();
    bool propose_disagreeing();
    bool propose_unlabelled();
    bool propose_grow();
    bool propose_fix();
    void begin_single(std::int32_t example);
    void begin(Proposal proposal);
    // By how much an example's favourite label beats the one it has, in adjusted scores.
    [[nodiscard]] double gain(std::int32_t example) const;
    // The same, summed over the examples that differ.
    [[nodiscard]] double gain(const Labels& labels) const;
    [[nodiscard]] std::int64_t next_grow_size() const;
    [[nodiscard]] Examples pick_growth(std::int64_t size) const;

    // ConsistencyFix and acceptance.
    void fix_round();
    [[nodiscard]] std::optional<Labels> best_fix(std::int32_t pair);
    [[nodiscard]] std::vector<Labels> fix_options(std::int32_t pair) const;
    void decide();
    [[nodiscard]] Event event_of(double candidate, double threshold);
    void log_decision(Event event);
    [[nodiscard]] double draw_threshold() const;
    void adopt(const Labels& labels, const Evaluation& evaluation);
    void remember_rejection();
    const Evaluation* known_or_ask(const Labels& labels, double threshold);
    // Rows to score for a labelling: all, or the labelled ones and those that may be drawn next.
    [[nodiscard]] std::vector<bool> rows_for(const Labels& labels) const;
    [[nodiscard]] bool is_scored(const State& state, std::int32_t example) const;
    void stop_for_budget();

    void set_state(const Labels& labels, const Evaluation& evaluation);
    [[nodiscard]] bool has_converged() const;
    [[nodiscard]] std::int32_t favourite(std::int32_t example) const;
    [[nodiscard]] Examples disagreeing() const;
    // The current labels with an example's favourite.
    [[nodiscard]] Labels with_favourite(std::int32_t example) const;
    [[nodiscard]] bool spent() const;
    [[nodiscard]] std::uint64_t step() const { return static_cast<std::uint64_t>(iteration_); }

    ConstraintGraph graph_;
    SearchSettings settings_;
    CounterRng rng_;

    State state_;
    State best_;
    std::vector<double> prior_;     // scores under no demonstrations; empty where not needed
    std::vector<double> adjusted_;  // what proposals go by in the current state
    std::set<Labels> visited_;      // states so far
    std::int64_t n_violations_ = 0;
    Tried tried_;

    Phase phase_ = Phase::kFix;
    Proposal proposal_;
    std::map<Labels, Evaluation> known_;  // within the current move
    std::optional<Ask> pending_;
    std::vector<Event> events_;
    std::string reason_;
    std::int64_t iteration_ = 0;
    std::int64_t n_asks_ = 0;
    std::int64_t n_evaluations_ = 0;  // asks that had a labelled example
    std::int64_t n_accepted_ = 0;
    std::int64_t n_unlabelled_draws_ = 0;
    std::int64_t n_restarts_ = 0;
    std::int64_t null_draws_ = 0;
    std::string ending_;  // the reason, while the last scores are asked for
};

}  // namespace icm_fast::engine
