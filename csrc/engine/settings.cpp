#include "engine/settings.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "engine/require.hpp"

namespace icm_fast::engine {
namespace {

// As in SearchConfig. Rounds that ask nothing must end, and sums of weights stay inside 64 bits.
constexpr std::int64_t kMost = 1'000'000;

void check_ranges(const SearchSettings& s) {
    require(std::isfinite(s.alpha), "alpha must be finite");
    require(s.violation_weight >= 0 && std::isfinite(s.violation_weight),
            "violation_weight must be finite and at least 0");
    require(s.schedule.initial >= 0 && s.schedule.minimum >= 0 && s.schedule.cooling >= 0,
            "temperatures and cooling must be at least 0");
    require(s.n_initial >= 1, "n_initial must be at least 1");
    require(s.prior_weight >= 0 && std::isfinite(s.prior_weight),
            "prior_weight must be finite and at least 0");
    require(s.fix_rounds >= 0 && s.fix_rounds <= kMost, "fix_rounds must lie in 0 .. 1000000");
    require(s.group_weight >= 1 && s.group_weight <= kMost,
            "group_weight must lie in 1 .. 1000000");
    require(s.single_tries >= 1, "single_tries must be at least 1");
    require(s.growth >= 0 && std::isfinite(s.growth), "growth must be finite and at least 0");
    require(s.max_iterations >= kPerExample, "max_iterations must be at least 0, or -1");
    require(s.max_evaluations >= 0, "max_evaluations must be at least 0");
    require(s.moves.has_any(), "moves is empty; name single, group, sweep or grow");
    require(s.restarts >= 0, "restarts must be at least 0");
    require(s.kick > 0 && s.kick <= 1, "kick must lie in (0, 1]");
}

void check_shares(const std::vector<double>& shares, std::int32_t n_labels) {
    require(std::ranges::all_of(shares, [](double share) { return share > 0 && share <= 1; }),
            "label_shares must lie in (0, 1]");
    require(shares.empty() || std::ssize(shares) == n_labels,
            "label_shares must have one number per label");
}

void check_labels(const Labels& labels, const ConstraintGraph& graph, const std::string& name) {
    require(std::ssize(labels) == graph.n_examples(), (name + " must be [n_examples]").c_str());
    require(std::ranges::all_of(
                labels, [&](std::int32_t y) { return y >= kUnlabelled && y < graph.n_labels(); }),
            (name + " must lie in -1 .. n_labels - 1").c_str());
}

void check_initial(const SearchSettings& s, const ConstraintGraph& graph) {
    const Labels& labels = s.initial_labels;
    if (labels.empty()) return;
    require(s.start != Start::kZeroShot, "initial_labels need start=given, not zero-shot");
    check_labels(labels, graph, "initial_labels");
    require(count_labelled(labels) > 0, "initial_labels label no example");
}

void check_fixed(const Labels& labels, const ConstraintGraph& graph) {
    if (labels.empty()) return;
    check_labels(labels, graph, "fixed_labels");
    const std::vector<std::int32_t> violated = graph.violated(labels);
    if (violated.empty()) return;
    const LabelPair ends = graph.ends(violated.front());
    throw std::invalid_argument("fixed_labels of examples " + std::to_string(ends.first) + " and " +
                                std::to_string(ends.second) + " contradict constraint " +
                                std::to_string(violated.front()));
}

}  // namespace

void SearchSettings::check(const ConstraintGraph& graph) const {
    check_ranges(*this);
    check_shares(label_shares, graph.n_labels());
    check_initial(*this, graph);
    check_fixed(fixed_labels, graph);
}

Start parse_start(std::string_view name) {
    if (name == "random") return Start::kRandom;
    if (name == "zero-shot") return Start::kZeroShot;
    if (name == "given") return Start::kGiven;
    throw std::invalid_argument("unknown start '" + std::string(name) + "'");
}

FixPairs parse_fix_pairs(std::string_view name) {
    if (name == "one") return FixPairs::kOne;
    if (name == "all") return FixPairs::kAll;
    throw std::invalid_argument("unknown fix_pairs '" + std::string(name) + "'");
}

FixOptions parse_fix_options(std::string_view name) {
    if (name == "allowed") return FixOptions::kAllowed;
    if (name == "one-label") return FixOptions::kOneLabel;
    throw std::invalid_argument("unknown fix_options '" + std::string(name) + "'");
}

MoveKinds parse_moves(std::span<const std::string> names) {
    MoveKinds kinds;
    for (const std::string& name : names) {
        if (name == "single") {
            kinds.single = true;
        } else if (name == "group") {
            kinds.group = true;
        } else if (name == "sweep") {
            kinds.sweep = true;
        } else if (name == "grow") {
            kinds.grow = true;
        } else {
            throw std::invalid_argument("unknown move '" + name + "'");
        }
    }
    return kinds;
}

}  // namespace icm_fast::engine
