// ConsistencyFix alone: what it asks for, and what it makes of the answers.
#include "engine/consistency_fix.hpp"

#include "tests/check.hpp"
#include "tests/small_search.hpp"

namespace icm_fast::tests {
namespace {

using engine::ConsistencyFix;
using engine::Evaluations;
using engine::Problem;
using engine::SearchSettings;

const Labels kViolated = {1, 1};

engine::Evaluation evaluated(double utility) {
    engine::Evaluation evaluation;
    evaluation.utility = utility;
    return evaluation;
}

Evaluations with_utilities(const std::vector<std::pair<Labels, double>>& utilities) {
    Evaluations known;
    for (const auto& [labels, utility] : utilities) known[labels] = evaluated(utility);
    return known;
}

// What comes out where all of these are known.
Labels fixed(const SearchSettings& settings, const Evaluations& known) {
    const Problem problem(neighbours(2, 1), settings);
    ConsistencyFix fix(problem);
    fix.begin(kViolated, 1);
    CHECK(!fix.advance(known));
    return fix.take();
}

}  // namespace

NATIVE_TEST(fix, a_consistent_candidate_costs_nothing) {
    const Problem problem(neighbours(4, 2), {});
    ConsistencyFix fix(problem);
    const Labels candidate = {1, 0, 1, engine::kUnlabelled};
    fix.begin(candidate, 1);
    CHECK(!fix.advance({}));
    CHECK(fix.take() == candidate);
}

NATIVE_TEST(fix, asks_for_the_candidate_and_then_for_each_allowed_option_in_order) {
    const Problem problem(neighbours(2, 1), {});
    ConsistencyFix fix(problem);
    fix.begin(kViolated, 1);
    Evaluations known;
    for (const Labels& wanted : {kViolated, Labels{0, 0}, Labels{0, 1}, Labels{1, 0}}) {
        const auto missing = fix.advance(known);
        CHECK(missing && *missing == wanted);
        CHECK(fix.advance(known) == missing);
        known[wanted] = evaluated(wanted == Labels{0, 1} ? 2.0 : 1.0);
    }
    CHECK(!fix.advance(known));
    CHECK((fix.take() == Labels{0, 1}));
}

NATIVE_TEST(fix, takes_the_best_option_only_if_it_helps) {
    const auto known = [](double best) {
        return with_utilities({{kViolated, 2.0}, {{0, 0}, 1.0}, {{0, 1}, best}, {{1, 0}, 1.5}});
    };
    CHECK((fixed({}, known(3.0)) == Labels{0, 1}));
    CHECK(fixed({}, known(2.0)) == kViolated);
    CHECK((fixed({.fix_accepts_ties = true}, known(2.0)) == Labels{0, 1}));
    CHECK(fixed({.fix_accepts_ties = true}, known(1.0)) == kViolated);
}

NATIVE_TEST(fix, needs_no_utility_of_an_option_below_the_best_so_far) {
    const Problem problem(neighbours(2, 1), {});
    ConsistencyFix fix(problem);
    fix.begin(kViolated, 1);
    Evaluations known;
    const auto answer = [&](double threshold, double utility) {
        const auto missing = fix.advance(known);
        CHECK(missing.has_value());
        CHECK_EQUAL(fix.threshold(), threshold);
        known[*missing] = evaluated(utility);
    };
    answer(engine::kExact, 2.0);  // the candidate
    answer(2.0, 1.0);             // no help
    answer(2.0, 3.0);
    answer(3.0, 2.5);
    CHECK(!fix.advance(known));
    CHECK((fix.take() == Labels{0, 1}));
}

NATIVE_TEST(fix, of_equal_options_the_first_counts) {
    CHECK((fixed({}, with_utilities({{kViolated, 0.0}, {{0, 0}, 1}, {{0, 1}, 1}, {{1, 0}, 1}})) ==
           Labels{0, 0}));
}

NATIVE_TEST(fix, may_leave_out_both_false) {
    const SearchSettings settings{.fix_both_false = false};
    CHECK((fixed(settings, with_utilities({{kViolated, 0.0}, {{0, 1}, 1.0}, {{1, 0}, 2.0}})) ==
           Labels{1, 0}));
}

NATIVE_TEST(fix, tries_no_other_label_for_a_known_example) {
    const SearchSettings settings{.fixed_labels = {1, engine::kUnlabelled}};
    // (1, 0) is all that is left; not to allow (0, 0) makes no difference to it.
    for (const bool both_false : {true, false}) {
        SearchSettings one = settings;
        one.fix_both_false = both_false;
        CHECK((fixed(one, with_utilities({{kViolated, 0.0}, {{1, 0}, 1.0}})) == Labels{1, 0}));
    }
}

NATIVE_TEST(fix, a_known_label_that_leaves_no_choice_keeps_the_violation) {
    const std::vector<std::int32_t> pairs = {0, 1};
    const std::vector<std::uint8_t> never_one_first = {1, 1, 0, 0};
    const Problem problem({2, 2, pairs, never_one_first}, {.fixed_labels = {1, -1}});
    ConsistencyFix fix(problem);
    fix.begin({1, 0}, 1);
    CHECK(!fix.advance(with_utilities({{{1, 0}, 0.0}})));
    CHECK((fix.take() == Labels{1, 0}));
}

NATIVE_TEST(fix, treats_one_pair_a_round_and_no_more_rounds_than_allowed) {
    const Labels all = {1, 1, 1, 1};
    for (const std::int64_t rounds : {0, 1, 2}) {
        const Problem problem(neighbours(4, 2), {.fix_rounds = rounds});
        ConsistencyFix fix(problem);
        fix.begin(all, 1);
        Evaluations known;
        while (const auto missing = fix.advance(known)) {
            known[*missing] =
                evaluated(-static_cast<double>(problem.graph.count_violations(*missing)));
        }
        CHECK_EQUAL(problem.graph.count_violations(fix.take()), 2 - rounds);
    }
}

// The authors' code.
const SearchSettings kAuthors{.fix_accepts_ties = true,
                              .fix_pairs = engine::FixPairs::kAll,
                              .fix_options = engine::FixOptions::kOneLabel,
                              .fix_forced = true};

NATIVE_TEST(fix, may_try_only_labels_that_change_one_of_the_pair) {
    CHECK((fixed(kAuthors, with_utilities({{kViolated, 0.0}, {{0, 1}, 1.0}, {{1, 0}, 2.0}})) ==
           Labels{1, 0}));
    const std::vector<std::uint8_t> equal = {1, 0, 0, 1};
    const std::vector<std::int32_t> turned = {1, 0};
    const Problem problem(engine::ConstraintGraph(2, 2, turned, equal), kAuthors);
    ConsistencyFix fix(problem);
    fix.begin({0, 1}, 1);
    CHECK(!fix.advance(with_utilities({{{0, 1}, 0.0}, {{0, 0}, 1.0}, {{1, 1}, 1.0}})));
    CHECK((fix.take() == Labels{0, 0}));
}

NATIVE_TEST(fix, the_first_of_a_new_label_may_be_taken_whatever_it_costs) {
    const auto known = with_utilities({{{0, 1}, -9.0}, {{1, 0}, -8.0}});
    const Problem problem(neighbours(2, 1), kAuthors);
    ConsistencyFix fix(problem);
    fix.begin(kViolated, 1, engine::FixStart::kNewLabel);
    CHECK(!fix.advance(known));  // the utility of the candidate is not needed
    CHECK((fix.take() == Labels{1, 0}));
    fix.begin(kViolated, 1);
    CHECK(fix.advance(known).has_value());
}

NATIVE_TEST(fix, may_look_at_all_pairs_until_one_helps) {
    const Labels all = {1, 1, 1, 1};
    for (std::uint64_t step = 1; step < 20; ++step) {
        const Problem problem(neighbours(4, 2), kAuthors);
        ConsistencyFix fix(problem);
        fix.begin(all, step);
        Evaluations known;
        // The first pair cannot be helped, the second one can.
        while (const auto missing = fix.advance(known)) {
            const bool is_first_changed = (*missing)[0] != 1 || (*missing)[1] != 1;
            const double gain = (*missing)[2] == 0 ? 1.0 : 0.0;
            known[*missing] = evaluated(is_first_changed ? -5.0 : gain);
        }
        CHECK((fix.take() == Labels{1, 1, 0, 1}));
    }
}

NATIVE_TEST(fix, a_search_may_give_up_in_the_middle) {
    const Problem problem(neighbours(2, 1), {});
    ConsistencyFix fix(problem);
    fix.begin(kViolated, 1);
    CHECK(fix.advance({}).has_value());
    CHECK(fix.take() == kViolated);
}

}  // namespace icm_fast::tests
