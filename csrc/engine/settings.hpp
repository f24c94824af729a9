// The settings of a search: one struct, and one table that names them for bindings.
//
// Plain values that own their vectors; a SearchSettings that nobody writes is thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "engine/constraints.hpp"
#include "engine/labeling.hpp"
#include "engine/objective.hpp"
#include "engine/schedule.hpp"

namespace icm_fast::engine {

// The labels before the first move.
enum class Start {
    kRandom,    // `n_initial` examples with balanced random labels
    kZeroShot,  // every example's label under no demonstrations at all
    kGiven,     // `initial_labels`
};

// Which violated pairs a round of ConsistencyFix looks at.
enum class FixPairs {
    kOne,  // one, drawn at random (Algorithm 2)
    kAll,  // all in random order until one helps; over where none does (the authors' code)
};

// Which labels ConsistencyFix tries for a violated pair.
enum class FixOptions {
    kAllowed,   // all that the constraint allows
    kOneLabel,  // those that change one label of the pair, where there are any (the authors' code)
};

// Kinds of proposals. Without large ones the moves are the paper's plain draw, otherwise they come
// in the order sweep, group, single, grow.
struct MoveKinds {
    bool single = false;
    bool group = false;
    bool sweep = false;
    bool grow = false;

    [[nodiscard]] bool has_any() const { return single || has_large(); }
    [[nodiscard]] bool has_large() const { return group || sweep || grow; }
};

// Of SearchSettings::max_iterations.
inline constexpr std::int64_t kPerExample = -1;

struct SearchSettings {
    Objective objective = Objective::kCalibrated;
    double alpha = 50.0;            // of U(D) = alpha P(D) - I(D)
    double violation_weight = 1.0;  // of a violated pair in I(D); 2 for a sum over ordered pairs
    Schedule schedule = {};
    Start start = Start::kRandom;
    std::int64_t n_initial = 8;
    bool initial_groups = false;  // whether a random start labels whole constraint groups
    Labels initial_labels = {};   // [n_examples], or nothing: where the search starts
    // [n_examples], or nothing: labels that the search keeps from its first state on, -1 where it
    // is free. They win over `initial_labels`.
    Labels fixed_labels = {};
    // Expected share of each label, where it is known: proposals of the calibrated objective then
    // aim at these shares instead of equal ones. Empty, or one number above 0 per label.
    std::vector<double> label_shares = {};
    // Weight in proposals of the scores under no demonstrations, beside those of the current state.
    double prior_weight = 0.0;
    std::int64_t fix_rounds = 10;  // of ConsistencyFix
    bool fix_both_false = true;    // whether it may set a pair to label 0 on both sides
    bool fix_accepts_ties = false;
    FixPairs fix_pairs = FixPairs::kOne;
    FixOptions fix_options = FixOptions::kAllowed;
    // Whether the first fix after a new label is taken whatever it does to the utility.
    bool fix_forced = false;
    // Whether a draw that proposes the present label does nothing even where a pair is violated.
    // Only the paper's draw meets such proposals.
    bool quiet_null_draws = false;
    // Weight of a draw of an unlabelled example that shares a constraint with labelled ones,
    // against 1 for all others.
    std::uint64_t group_weight = 100;
    MoveKinds moves = {.single = true};
    double growth = 1.0;            // examples that `grow` adds, as a share of those labelled
    std::int64_t single_tries = 2;  // rejected single and group moves before a state is left alone
    // How often a search that has settled continues from its best labelling with the share `kick`
    // of the examples relabelled at random.
    std::int64_t restarts = 0;
    double kick = 0.25;
    // Whether unlabelled examples are scored only when a step draws them, where nothing else needs
    // their scores.
    bool lazy_queries = true;
    std::int64_t max_iterations = 1000;  // kPerExample: as many as there are examples
    std::int64_t max_evaluations = 0;    // 0: no bound
    bool return_best = false;
    std::uint64_t seed = 0;

    [[nodiscard]] Weights weights() const { return {alpha, violation_weight}; }
    [[nodiscard]] bool needs_prior() const {
        return start == Start::kZeroShot || prior_weight > 0.0;
    }
    [[nodiscard]] bool is_quiet() const { return quiet_null_draws && !moves.has_large(); }
    // The calibrated marginal of unlabelled examples averages over all of them, growth picks among
    // all: only the paper's draw gets along without.
    [[nodiscard]] bool is_lazy() const {
        return lazy_queries && !moves.has_large() && !needs_prior() &&
               objective != Objective::kCalibrated;
    }

    // Throws std::invalid_argument for a value out of range, or one that does not fit the graph.
    void check(const ConstraintGraph& graph) const;
};

// The names that SearchConfig uses; each throws std::invalid_argument for an unknown one.
[[nodiscard]] Start parse_start(std::string_view name);
[[nodiscard]] FixPairs parse_fix_pairs(std::string_view name);
[[nodiscard]] FixOptions parse_fix_options(std::string_view name);
[[nodiscard]] MoveKinds parse_moves(std::span<const std::string> names);

// One row of the table: a name, and what std::invoke makes a reference to the value of, from a
// SearchSettings.
template <typename Access>
struct Setting {
    const char* name;
    Access access;
};
// Compilers before Clang 17 and GCC 11 do not deduce it by themselves.
template <typename Access>
Setting(const char*, Access) -> Setting<Access>;

// Every setting, by its name in SearchConfig. A binding reads them all from here.
inline constexpr std::tuple kSettings{
    Setting{"objective", &SearchSettings::objective},
    Setting{"alpha", &SearchSettings::alpha},
    Setting{"violation_weight", &SearchSettings::violation_weight},
    Setting{"initial_temperature", [](SearchSettings& s) -> double& { return s.schedule.initial; }},
    Setting{"min_temperature", [](SearchSettings& s) -> double& { return s.schedule.minimum; }},
    Setting{"cooling", [](SearchSettings& s) -> double& { return s.schedule.cooling; }},
    Setting{"cooling_clock", [](SearchSettings& s) -> CoolingClock& { return s.schedule.clock; }},
    Setting{"start", &SearchSettings::start},
    Setting{"n_initial", &SearchSettings::n_initial},
    Setting{"initial_groups", &SearchSettings::initial_groups},
    Setting{"initial_labels", &SearchSettings::initial_labels},
    Setting{"fixed_labels", &SearchSettings::fixed_labels},
    Setting{"label_shares", &SearchSettings::label_shares},
    Setting{"prior_weight", &SearchSettings::prior_weight},
    Setting{"fix_rounds", &SearchSettings::fix_rounds},
    Setting{"fix_both_false", &SearchSettings::fix_both_false},
    Setting{"fix_accepts_ties", &SearchSettings::fix_accepts_ties},
    Setting{"fix_pairs", &SearchSettings::fix_pairs},
    Setting{"fix_options", &SearchSettings::fix_options},
    Setting{"fix_forced", &SearchSettings::fix_forced},
    Setting{"quiet_null_draws", &SearchSettings::quiet_null_draws},
    Setting{"group_weight", &SearchSettings::group_weight},
    Setting{"moves", &SearchSettings::moves},
    Setting{"growth", &SearchSettings::growth},
    Setting{"single_tries", &SearchSettings::single_tries},
    Setting{"restarts", &SearchSettings::restarts},
    Setting{"kick", &SearchSettings::kick},
    Setting{"lazy_queries", &SearchSettings::lazy_queries},
    Setting{"max_iterations", &SearchSettings::max_iterations},
    Setting{"max_evaluations", &SearchSettings::max_evaluations},
    Setting{"return_best", &SearchSettings::return_best},
    Setting{"seed", &SearchSettings::seed},
};

}  // namespace icm_fast::engine
