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

struct SearchSettings {
    Objective objective = Objective::kCalibrated;
    double alpha = 50.0;  // of U(D) = alpha P(D) - I(D)
    Schedule schedule = {};
    Start start = Start::kRandom;
    std::int64_t n_initial = 8;
    Labels initial_labels = {};  // [n_examples], or nothing: where the search starts
    // Expected share of each label, where it is known: proposals of the calibrated objective then
    // aim at these shares instead of equal ones. Empty, or one number above 0 per label.
    std::vector<double> label_shares = {};
    // Weight in proposals of the scores under no demonstrations, beside those of the current state.
    double prior_weight = 0.0;
    std::int64_t fix_rounds = 10;  // of ConsistencyFix
    bool fix_both_false = true;    // whether it may set a pair to label 0 on both sides
    bool fix_accepts_ties = false;
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
    std::int64_t max_iterations = 1000;
    std::int64_t max_evaluations = 0;  // 0: no bound
    bool return_best = false;
    std::uint64_t seed = 0;

    [[nodiscard]] bool needs_prior() const {
        return start == Start::kZeroShot || prior_weight > 0.0;
    }
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
    Setting{"initial_temperature", [](SearchSettings& s) -> double& { return s.schedule.initial; }},
    Setting{"min_temperature", [](SearchSettings& s) -> double& { return s.schedule.minimum; }},
    Setting{"cooling", [](SearchSettings& s) -> double& { return s.schedule.cooling; }},
    Setting{"cooling_clock", [](SearchSettings& s) -> CoolingClock& { return s.schedule.clock; }},
    Setting{"start", &SearchSettings::start},
    Setting{"n_initial", &SearchSettings::n_initial},
    Setting{"initial_labels", &SearchSettings::initial_labels},
    Setting{"label_shares", &SearchSettings::label_shares},
    Setting{"prior_weight", &SearchSettings::prior_weight},
    Setting{"fix_rounds", &SearchSettings::fix_rounds},
    Setting{"fix_both_false", &SearchSettings::fix_both_false},
    Setting{"fix_accepts_ties", &SearchSettings::fix_accepts_ties},
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
