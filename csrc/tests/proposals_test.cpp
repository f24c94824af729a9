// Proposals alone: which move comes next, from states that are made for it.
#include "engine/proposals.hpp"

#include <set>

#include "engine/unlabelled_draws.hpp"
#include "tests/check.hpp"
#include "tests/small_search.hpp"

namespace icm_fast::tests {
namespace {

using engine::kUnlabelled;
using engine::Move;
using engine::MoveKinds;
using engine::Objective;
using engine::Problem;
using engine::Proposals;
using engine::SearchSettings;
using engine::State;

// A state, and the proposals from it.
struct Search {
    Search(engine::ConstraintGraph graph, SearchSettings settings, Labels labels,
           std::vector<float> scores)
        : problem(std::move(graph), std::move(settings)),
          state(make_state(problem, std::move(labels), std::move(scores))),
          proposals(problem) {
        proposals.enter(state);
    }

    Problem problem;
    State state;
    Proposals proposals;
};

SearchSettings with_moves(MoveKinds moves) {
    return {.objective = Objective::kMeanLogprob, .moves = moves};
}

// Four examples without constraints, of which 1 and 2 disagree, 2 more than 1.
Search two_disagreements(const SearchSettings& settings) {
    return {neighbours(4, 0),
            settings,
            {0, 0, 0, 0},
            preferring({0, 1, 1, 0}, {1.0F, 1.0F, 2.0F, 1.0F})};
}

}  // namespace

NATIVE_TEST(proposals, nothing_is_left_where_all_examples_agree) {
    Search search(neighbours(3, 0), with_moves({.single = true, .group = true, .sweep = true}),
                  {0, 1, 0}, preferring({0, 1, 0}, {1.0F, 1.0F, 1.0F}));
    CHECK(search.proposals.has_converged());
    CHECK(!search.proposals.next(1));
}

NATIVE_TEST(proposals, a_sweep_changes_all_disagreements_and_is_tried_once) {
    Search search = two_disagreements(with_moves({.sweep = true}));
    const auto sweep = search.proposals.next(1);
    CHECK(sweep && sweep->move == Move::kSweep);
    CHECK((sweep->labels == Labels{0, 1, 1, 0}));
    search.proposals.reject(*sweep);
    CHECK(!search.proposals.next(2));
}

NATIVE_TEST(proposals, large_moves_do_not_return_to_a_state_that_was_left) {
    Search search = two_disagreements(with_moves({.single = true, .group = true, .sweep = true}));
    const State swept = make_state(search.problem, {0, 1, 1, 0},
                                   preferring({0, 0, 0, 0}, {1.0F, 1.0F, 1.0F, 1.0F}));
    search.proposals.enter(swept);
    const auto next = search.proposals.next(1);
    CHECK(next && next->move == Move::kGroup);  // the sweep would go back
    CHECK((next->labels != Labels{0, 0, 0, 0}));
}

NATIVE_TEST(proposals, single_moves_take_the_largest_gain_and_give_up_after_some_tries) {
    const std::vector<std::int32_t> by_gain = {2, 1};
    for (const std::size_t tries : {std::size_t{1}, std::size_t{2}}) {
        SearchSettings settings = with_moves({.single = true, .grow = true});
        settings.single_tries = static_cast<std::int64_t>(tries);
        Search search = two_disagreements(settings);
        for (std::size_t k = 0; k < tries; ++k) {
            const auto single = search.proposals.next(1);
            CHECK(single && single->move == Move::kSingle);
            CHECK(single->examples == engine::Examples{by_gain[k]});
            CHECK_EQUAL(single->labels[engine::index(by_gain[k])], 1);
            search.proposals.reject(*single);
        }
        CHECK(!search.proposals.next(1));
    }
}

NATIVE_TEST(proposals, a_group_gets_its_best_consistent_labels) {
    // Both of the first pair prefer 1, which only one of them may have: the one with more to gain.
    Search search(neighbours(4, 2), with_moves({.group = true}), {0, 0, 0, 0},
                  preferring({1, 1, 0, 0}, {1.0F, 2.0F, 1.0F, 1.0F}));
    const auto group = search.proposals.next(1);
    CHECK(group && group->move == Move::kGroup);
    CHECK((group->labels == Labels{0, 1, 0, 0}));
    CHECK((group->examples == engine::Examples{0, 1}));
}

NATIVE_TEST(proposals, growth_adds_a_share_of_those_labelled_but_one_at_least) {
    for (const auto& [growth, added] : {std::pair{0.0, 1}, {0.5, 1}, {1.0, 2}, {9.0, 4}}) {
        SearchSettings settings = with_moves({.grow = true});
        settings.growth = growth;
        Search search(neighbours(6, 0), settings,
                      {0, 1, kUnlabelled, kUnlabelled, kUnlabelled, kUnlabelled},
                      preferring({0, 1, 1, 0, 1, 0}, std::vector<float>(6, 1.0F)));
        const auto grown = search.proposals.next(1);
        CHECK(grown && grown->move == Move::kGrow);
        CHECK_EQUAL(engine::count_labelled(grown->labels), 2 + added);
        CHECK(grown->labels[0] == 0 && grown->labels[1] == 1);
    }
}

NATIVE_TEST(proposals, a_violation_that_nobody_disagrees_about_is_fixed_once) {
    Search search(neighbours(2, 1), with_moves({.group = true}), {1, 1},
                  preferring({1, 1}, {1.0F, 1.0F}));
    CHECK_EQUAL(search.proposals.n_violations(), 1);
    CHECK(!search.proposals.has_converged());
    const auto fix = search.proposals.next(1);
    CHECK(fix && fix->move == Move::kFix);
    CHECK(fix->labels == search.state.labels);
    search.proposals.reject(*fix);
    CHECK(!search.proposals.next(2));
}

NATIVE_TEST(proposals, what_was_tried_is_forgotten_in_a_new_state) {
    Search search = two_disagreements(with_moves({.single = true, .grow = true}));
    const auto first = search.proposals.next(1);
    CHECK(first.has_value());
    search.proposals.reject(*first);
    search.proposals.enter(search.state);
    CHECK(search.proposals.next(1)->labels == first->labels);
}

NATIVE_TEST(proposals, the_draw_meets_what_changes_something_and_counts_the_rest) {
    std::int64_t n_null = 0;
    Search search = two_disagreements(with_moves({.single = true}));
    constexpr std::uint64_t kDraws = 2000;
    for (std::uint64_t step = 1; step <= kDraws; ++step) {
        const engine::Draw draw = search.proposals.draw(step, 0);
        CHECK(draw.example == 1 || draw.example == 2);
        CHECK(draw.null_draws >= 0);
        n_null += draw.null_draws;
    }
    // Two of four examples change something: one draw in vain for each that is not.
    CHECK_NEAR(static_cast<double>(n_null) / kDraws, 1.0, 0.1);
}

NATIVE_TEST(proposals, unlabelled_examples_are_drawn_in_an_order_that_is_known_before) {
    Search search(neighbours(5, 0), with_moves({.single = true}),
                  {0, kUnlabelled, kUnlabelled, kUnlabelled, kUnlabelled},
                  preferring({0, 1, 1, 0, 1}, std::vector<float>(5, 1.0F)));
    const std::vector<std::uint64_t> weights = {0, 1, 1, 1, 1};
    for (std::int64_t n_drawn = 0; n_drawn < 20; ++n_drawn) {
        const auto rows = engine::rows_to_score(search.problem, search.state.labels, n_drawn);
        const std::int32_t example = search.proposals.draw(7, n_drawn).example;
        CHECK_EQUAL(example, engine::next_unlabelled(search.problem, weights, n_drawn));
        CHECK(rows[0] && rows[engine::index(example)]);
    }
}

NATIVE_TEST(proposals, a_restart_relabels_whole_groups_up_to_the_share) {
    SearchSettings settings = with_moves({.sweep = true});
    settings.kick = 0.5;
    const Labels from = {1, 0, 1, 0, 1, 0, 1, 0};
    Search search(neighbours(8, 4), settings, from, preferring(from, std::vector<float>(8, 1.0F)));
    bool has_changed = false;
    for (std::uint64_t step = 1; step < 20; ++step) {
        const engine::Proposal kicked = search.proposals.restart(from, step);
        CHECK(kicked.move == Move::kRestart);
        CHECK_EQUAL(search.problem.graph.count_violations(kicked.labels), 0);
        const auto changes = engine::changes_between(from, kicked.labels);
        CHECK(changes.size() <= 4);
        has_changed = has_changed || !changes.empty();
    }
    CHECK(has_changed);
}

NATIVE_TEST(proposals, known_labels_are_not_touched_and_part_what_they_join) {
    SearchSettings settings =
        with_moves({.single = true, .group = true, .sweep = true, .grow = true});
    settings.fixed_labels = {kUnlabelled, 0, kUnlabelled, kUnlabelled};
    // A chain of equal labels; all prefer 1, and the last two are free to have it.
    const std::vector<std::int32_t> pairs = {0, 1, 2, 3};
    const std::vector<std::uint8_t> equal = {1, 0, 0, 1, 1, 0, 0, 1};
    Search search({4, 2, pairs, equal}, settings, {0, 0, 0, 0},
                  preferring({1, 1, 1, 1}, {1.0F, 9.0F, 1.0F, 1.0F}));
    const auto sweep = search.proposals.next(1);
    CHECK(sweep && sweep->move == Move::kSweep);
    CHECK((sweep->labels == Labels{0, 0, 1, 1}));
    search.proposals.reject(*sweep);
    const auto group = search.proposals.next(2);
    CHECK(group && group->move == Move::kGroup);
    CHECK((group->examples == engine::Examples{2, 3}));
    std::set<std::int32_t> drawn;
    for (std::uint64_t step = 1; step < 60; ++step) {
        drawn.insert(search.proposals.draw(step, 0).example);
        const engine::Proposal kicked = search.proposals.restart({0, 0, 1, 1}, step);
        CHECK_EQUAL(kicked.labels[1], 0);
    }
    CHECK((drawn == std::set<std::int32_t>{0, 2, 3}));
}

}  // namespace icm_fast::tests
