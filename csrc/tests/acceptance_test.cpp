// Acceptance alone: thresholds, evaluations, and rejection by a bound.
#include "engine/acceptance.hpp"

#include <cmath>
#include <limits>

#include "tests/check.hpp"
#include "tests/small_search.hpp"

namespace icm_fast::tests {
namespace {

using engine::Acceptance;
using engine::Ask;
using engine::kExact;
using engine::Move;
using engine::Objective;
using engine::Problem;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
const Labels kLabels = {0, 1, engine::kUnlabelled};

Problem problem_of(Objective objective) {
    return {neighbours(3, 0), {.objective = objective, .alpha = 10.0}};
}

Ask asked(double threshold) {
    return {.labels = kLabels, .threshold = threshold, .rows = {true, true, false}};
}

}  // namespace

NATIVE_TEST(acceptance, moves_that_are_taken_anyhow_have_no_threshold) {
    const Problem problem = problem_of(Objective::kMeanLogprob);
    const Acceptance acceptance(problem);
    for (const Move move : {Move::kInit, Move::kGrow, Move::kRestart}) {
        CHECK_EQUAL(acceptance.threshold(move, -3.0, 1.0, 7), kExact);
    }
}

NATIVE_TEST(acceptance, the_threshold_is_a_drop_of_temperature_times_log_u) {
    const Problem problem = problem_of(Objective::kMeanLogprob);
    const Acceptance acceptance(problem);
    for (std::uint64_t step = 1; step < 50; ++step) {
        const double u = problem.rng.uniform(engine::Purpose::kAccept, step, 0);
        const double threshold = acceptance.threshold(Move::kSingle, -3.0, 2.0, step);
        CHECK_EQUAL(threshold, -3.0 + 2.0 * std::log(u));
        CHECK(threshold <= -3.0);
        CHECK_EQUAL(acceptance.threshold(Move::kGroup, -3.0, 0.0, step), -3.0);
    }
}

NATIVE_TEST(acceptance, what_is_whole_is_accepted_from_its_threshold_on) {
    CHECK(Acceptance::accepts({.utility = 1.0}, 1.0));
    CHECK(Acceptance::accepts({.utility = -1e9}, kExact));
    CHECK(!Acceptance::accepts({.utility = 0.5}, 1.0));
    CHECK(!Acceptance::accepts({.utility = 1.0, .is_whole = false}, 1.0));
}

NATIVE_TEST(acceptance, whole_scores_give_the_utility) {
    const Problem problem = problem_of(Objective::kMeanLogprob);
    const std::vector<float> scores = {-1.0F, -2.0F, -4.0F, -3.0F, kNan, kNan};
    const engine::Evaluation found = Acceptance(problem).evaluate(asked(kExact), scores);
    CHECK(found.is_whole);
    CHECK_EQUAL(found.utility, 10.0 * (-1.0 + -3.0) / 2.0);
    CHECK(found.scores.size() == scores.size());
}

NATIVE_TEST(acceptance, missing_scores_must_show_the_rejection) {
    const Problem problem = problem_of(Objective::kMeanLogprob);
    const Acceptance acceptance(problem);
    const std::vector<float> scores = {kNan, kNan, -4.0F, -3.0F, kNan, kNan};
    const double bound = 10.0 * -3.0 / 2.0;
    const engine::Evaluation found = acceptance.evaluate(asked(bound + 0.5), scores);
    CHECK(!found.is_whole);
    CHECK_EQUAL(found.utility, bound);
    check_invalid("do not show", [&] { (void)acceptance.evaluate(asked(bound), scores); });
    check_invalid("needed exactly", [&] { (void)acceptance.evaluate(asked(kExact), scores); });
    const Problem calibrated = problem_of(Objective::kCalibrated);
    check_invalid("has no bound",
                  [&] { (void)Acceptance(calibrated).evaluate(asked(0.0), scores); });
}

NATIVE_TEST(acceptance, an_accepted_state_needs_all_that_was_asked_for) {
    const Problem problem = problem_of(Objective::kCalibrated);
    const Acceptance acceptance(problem);
    Ask ask = asked(-1e9);
    ask.rows = {true, true, true};
    const std::vector<float> scores = {-1.0F, -2.0F, -4.0F, -3.0F, kNan, kNan};
    check_invalid("where they are requested", [&] { (void)acceptance.evaluate(ask, scores); });
    ask.threshold = 1e9;
    CHECK(acceptance.evaluate(ask, scores).is_whole);
}

NATIVE_TEST(acceptance, a_bound_needs_an_objective_and_a_threshold) {
    const std::vector<float> scores = {kNan, kNan, -4.0F, -3.0F, kNan, kNan};
    for (const Objective objective : {Objective::kMeanLogprob, Objective::kSumLogprob,
                                      Objective::kCalibrated, Objective::kMeanLogodds}) {
        const Problem problem = problem_of(objective);
        const Acceptance acceptance(problem);
        const bool has_bound = engine::has_bound(objective);
        CHECK_EQUAL(acceptance.may_reject(asked(0.0)), has_bound);
        CHECK_EQUAL(acceptance.rejects(asked(0.0), scores), has_bound);
        CHECK(!acceptance.rejects(asked(-1e9), scores));
        CHECK(!acceptance.may_reject(asked(kExact)));
        Ask lookup = asked(0.0);
        lookup.is_lookup = true;
        CHECK(!acceptance.may_reject(lookup));
    }
}

}  // namespace icm_fast::tests
