"""The annealing machine: protocol, moves, acceptance, fix and stopping."""

import dataclasses
import json
import math

import numpy as np
import pytest
from engine_cases import (
    ENGINES,
    EXCLUSIVE,
    ONE_TRUE,
    RANDOM_START,
    Case,
    apply_changes,
    coupled_scorer,
    equal_table,
    group_graph,
    no_graph,
    noise_scorer,
    random_graph,
    run_search,
    run_steps,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_fast import _core
from icm_fast.config import PRESETS, SearchConfig
from icm_fast.engine.native import engine_settings, make_engine
from icm_fast.types import Constraint, Dataset, Example, LabelSpace

ANNEALING = SearchConfig(preset="annealing")


def _random_case(seed: int, preset: str, **overrides) -> Case:
    rng = np.random.default_rng(seed)
    n, n_labels = int(rng.integers(2, 12)), int(rng.integers(2, 4))
    graph = random_graph(rng, n, n_labels, int(rng.integers(0, n)))
    scorer = (noise_scorer, coupled_scorer)[seed % 2](n, n_labels, seed)
    config = SearchConfig(preset=preset, seed=seed, **{"max_iterations": 60, **overrides})
    return Case(n, n_labels, *graph, scorer, config)


def _constant_scorer(table):
    return lambda labels: np.array(table, dtype=np.float32)


def _addition_costs(n):
    """Every labelled example costs one unit of the summed objective."""
    return Case(
        n,
        2,
        *no_graph(2),
        _constant_scorer([[-1.0, -1.0]] * n),
        SearchConfig(
            objective="sum_logprob", initial_temperature=0.0, min_temperature=0.0, **RANDOM_START
        ),
    )


# ---- Protocol ----


def test_make_engine_takes_size_and_constraints_from_the_data_set():
    examples = tuple(Example(str(i), f"claim {i}:") for i in range(3))
    allowed = ((False, True), (True, False))
    dataset = Dataset(examples, LabelSpace((" False", " True")), (Constraint(0, 2, allowed),))
    engine = make_engine(SearchConfig(n_initial=3, **RANDOM_START), dataset)
    assert (engine.ask().labels >= 0).sum() == 3
    with pytest.raises(ValueError, match=r"float32 array \[3, 2\]"):
        engine.tell(np.zeros((3, 3), np.float32))


@pytest.mark.parametrize("engine", ENGINES)
def test_ask_is_idempotent_until_told(engine):
    machine = _random_case(4, "paper").start(engine)
    first, second = machine.ask(), machine.ask()
    assert first.labels.tolist() == second.labels.tolist()
    assert first.labels.dtype == np.int32
    assert first.threshold == second.threshold == -math.inf
    assert machine.take_events() == []
    assert machine.n_asks == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_and_change_nothing(engine, bad):
    case = _random_case(4, "default")
    machine = case.start(engine)
    ask = machine.ask()
    scores = case.scorer(ask.labels)
    scores[1, 1] = bad
    with pytest.raises(ValueError, match="finite"):
        machine.tell(scores)
    assert machine.ask().labels.tolist() == ask.labels.tolist()
    assert machine.n_asks == 0


def test_a_row_that_was_not_asked_for_is_given_whole_or_not_at_all():
    case = _random_case(2, "paper")
    machine = case.start(_core.Engine)
    ask = machine.ask()
    row = int(np.flatnonzero(~np.asarray(ask.rows))[0])
    scores = np.where(np.asarray(ask.rows)[:, None], case.scorer(ask.labels), np.float32(np.nan))
    scores[row, 0] = -1.0
    with pytest.raises(ValueError, match="finite for all labels, or NaN for all"):
        machine.tell(scores)
    assert machine.n_asks == 0
    scores[row] = -1.0
    machine.tell(scores)
    assert machine.n_asks == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_tell_after_the_end_is_refused(engine):
    case = _random_case(4, "paper")
    machine, _ = run_search(case, engine)
    assert machine.done
    assert machine.ask() is None
    with pytest.raises(ValueError, match="search is over"):
        machine.tell(np.zeros((case.n, case.n_labels), np.float32))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"objective": "median"}, "unknown objective 'median'"),
        ({"cooling_clock": "sun"}, "unknown cooling_clock 'sun'"),
        ({"moves": ["jump"]}, "unknown move 'jump'"),
        ({"moves": []}, "moves is empty"),
        ({"n_initial": 0}, "n_initial must be at least 1"),
        ({"alpha": math.nan}, "alpha must be finite"),
        ({"n_examples": 0}, "n_examples = 0"),
        ({"n_labels": 1}, "n_labels = 1"),
        ({"pairs": [[0, 9]]}, "constraint 0 names example 9, outside 0 .. 3"),
        ({"pairs": [[2, 2]]}, "joins example 2 with itself"),
        ({"pairs": [[0, 1], [1, 2]]}, "with m = 2 pairs"),
    ],
)
def test_bad_arguments_are_refused(change, text):
    arguments = {
        "n_examples": 4,
        "n_labels": 2,
        "pairs": [[0, 1]],
        "tables": [ONE_TRUE],
        **engine_settings(SearchConfig()),
        **change,
    }
    tables = np.array(arguments["tables"], np.uint8)
    if arguments["n_labels"] == 1:
        tables = tables[:, :1, :1]
    arguments["pairs"] = np.array(arguments["pairs"], np.int32)
    arguments["tables"] = tables
    with pytest.raises(ValueError, match=text):
        _core.Engine(**arguments)


def test_the_engine_takes_settings_of_the_configuration_and_all_of_them():
    names = _core.engine_setting_names()
    assert len(set(names)) == len(names) > 20
    assert set(names) < {field.name for field in dataclasses.fields(SearchConfig)}
    none = np.zeros((0, 2), np.int32), np.zeros((0, 2, 2), np.uint8)
    settings_given = engine_settings(SearchConfig())
    for name in names:
        rest = {key: value for key, value in settings_given.items() if key != name}
        with pytest.raises(TypeError, match=f"missing keyword argument '{name}'"):
            _core.Engine(4, 2, *none, **rest)
        with pytest.raises(TypeError, match=f"'{name}' cannot be <object"):
            _core.Engine(4, 2, *none, **rest, **{name: object()})
    with pytest.raises(TypeError, match="unexpected keyword argument 'anchors'"):
        _core.Engine(4, 2, *none, **settings_given, anchors=0)


# ---- Every search ----


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), preset=st.sampled_from(PRESETS))
def test_events_tell_the_whole_story(seed, preset):
    case = _random_case(seed, preset)
    machine = case.start()
    labels = np.full(case.n, -1, np.int32)
    iteration = 0
    for event in run_steps(case, machine):
        json.dumps(event, allow_nan=False)
        iteration += event["null_draws"] + (event["move"] not in ("init", "done"))
        assert event["iteration"] == iteration
        if event["accepted"] and event["threshold"] is not None:
            assert event["utility_candidate"] >= event["threshold"]
        if not event["accepted"] and event["move"] != "done":
            assert event["utility_candidate"] < event["threshold"] <= event["utility_before"]
        labels = apply_changes(labels, event)
        assert event["utility_after"] == case.utility(labels)
        assert event["n_violations"] == case.violations(labels)
        assert event["n_labelled"] == np.count_nonzero(labels >= 0)
    assert event["move"] == "done"
    assert event["reason"] == machine.reason
    np.testing.assert_array_equal(machine.labels, labels)
    np.testing.assert_array_equal(machine.scores, case.scorer(labels))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), preset=st.sampled_from(("default", "paper", "paper-literal")))
def test_fix_never_lowers_the_utility_of_a_candidate(seed, preset):
    case = _random_case(seed, preset)
    machine = case.start()
    first_of_move = None
    while (ask := machine.ask()) is not None:
        if (ask.labels < 0).all():  # the pass without demonstrations belongs to no move
            machine.tell(case.scorer(ask.labels))
            continue
        if first_of_move is None:
            first_of_move = case.utility(ask.labels)
        machine.tell(case.scorer(ask.labels))
        events = [e for e in machine.take_events() if e["move"] != "done"]
        if events:
            assert events[0]["utility_candidate"] >= first_of_move
            first_of_move = None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), preset=st.sampled_from(PRESETS))
def test_best_result_is_the_most_labelled_then_the_best(seed, preset):
    case = _random_case(seed, preset, return_best=True)
    machine, events = run_search(case)
    best = max((e["n_labelled"], e["utility_after"]) for e in events)
    result = machine.result_labels
    assert (np.count_nonzero(result >= 0), machine.result_utility) == best
    assert case.utility(result) == machine.result_utility
    np.testing.assert_array_equal(machine.result_scores, case.scorer(result))


def test_last_state_is_returned_on_request():
    case = _random_case(8, "paper", return_best=False, max_iterations=10)
    machine, _ = run_search(case)
    np.testing.assert_array_equal(machine.result_labels, machine.labels)
    assert machine.result_utility == machine.utility


# ---- Schedule ----


@pytest.mark.parametrize(
    ("clock", "count"),
    [
        ("iterations", lambda e, accepted: e["iteration"]),
        ("accepted", lambda e, a: 1 + a),
        ("acceptances", lambda e, a: 1 + a),  # the same where no fix leads back
    ],
)
def test_temperature_follows_its_clock(clock, count):
    config = SearchConfig(
        preset="paper", alpha=1.0, cooling_clock=clock, cooling=2.0, max_iterations=60
    )
    case = Case(10, 2, *no_graph(2), noise_scorer(10, 2, 1), config)
    _, events = run_search(case)
    accepted = 0
    for event in events[1:]:
        expected = max(0.01, 10.0 / (1 + 2.0 * math.log(count(event, accepted))))
        assert event["temperature"] == pytest.approx(expected)
        accepted += event["accepted"] and bool(event["changes"])
    assert accepted > 3


def test_temperature_has_a_floor():
    case = _random_case(10, "paper", initial_temperature=0.0, min_temperature=0.5)
    assert case.start().temperature == 0.5


# ---- Stopping ----


@pytest.mark.parametrize("preset", ["default", "paper", "authors-code"])
def test_coupled_search_converges(preset):
    case = Case(
        12,
        2,
        *group_graph(12, 2, ONE_TRUE),
        # All examples agree with their neighbour in the pair: even ones 0, odd ones 1.
        _constant_scorer([[-0.1, -2.0], [-2.0, -0.1]] * 6),
        SearchConfig(preset=preset, seed=1),
    )
    machine, events = run_search(case)
    assert machine.reason == "converged"
    assert machine.labels.tolist() == [0, 1] * 6
    assert events[-1]["n_violations"] == 0


def test_the_printed_search_ends_after_as_many_steps_as_examples():
    graph = group_graph(12, 2, ONE_TRUE)
    config = SearchConfig(preset="paper-literal", seed=1)
    machine, _ = run_search(Case(12, 2, *graph, noise_scorer(12, 2, 1), config))
    assert (machine.reason, machine.iteration) == ("max_iterations", 12)
    # Log-probabilities are added up, and both orders of a contradictory pair count.
    labels = np.array([1, 1] + [-1] * 10, np.int32)
    scores = np.full((12, 2), -0.5, np.float32)
    given = SearchConfig(
        preset="paper-literal", start="given", initial_labels=labels, fix_rounds=0, max_iterations=0
    )
    machine, _ = run_search(Case(12, 2, *graph, lambda _: scores, given))
    assert machine.utility == 50.0 * 2 * -0.5 - 2


def test_null_draws_are_counted_and_cost_no_ask():
    table = [[-0.1, -2.0]] * 4 + [[-2.0, -0.1]] * 4
    config = SearchConfig(preset="paper", n_initial=7, seed=6)
    case = Case(8, 2, *no_graph(2), _constant_scorer(table), config)
    machine, events = run_search(case)
    assert machine.reason == "converged"
    null_draws = sum(e["null_draws"] for e in events)
    assert null_draws > 0
    assert machine.iteration == null_draws + len(events) - 2  # without init and done
    assert machine.n_asks <= len(events) - 1


def test_max_iterations_counts_null_draws():
    table = [[-0.1, -2.0]] * 4 + [[-2.0, -0.1]] * 4
    config = SearchConfig(preset="paper", n_initial=7, seed=5, max_iterations=3)
    machine, _ = run_search(Case(8, 2, *no_graph(2), _constant_scorer(table), config))
    assert (machine.reason, machine.iteration) == ("max_iterations", 3)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("limit", [1, 2, 3, 9])
@pytest.mark.parametrize(
    "preset", [name for name in PRESETS if name != "default"]
)  # takes no moves
def test_max_evaluations_is_never_exceeded(engine, limit, preset):
    graph = group_graph(12, 3, EXCLUSIVE)
    config = SearchConfig(preset=preset, max_evaluations=limit, seed=2, restarts=9)
    machine, _ = run_search(Case(12, 2, *graph, noise_scorer(12, 2, 1), config), engine)
    assert machine.reason == "max_evaluations"
    # The pass without demonstrations has no utility and does not count.
    assert machine.n_asks == limit + (preset == "annealing")
    assert machine.n_labelled >= 8


def test_violations_that_no_move_removes_settle_the_search():
    # No label pair is allowed, so the fix has no option.
    graph = (np.array([[0, 1]], np.int32), np.zeros((1, 2, 2), np.uint8))
    case = Case(2, 2, *graph, _constant_scorer([[-0.1, -2.0], [-2.0, -0.1]]), ANNEALING)
    machine, events = run_search(case)
    assert machine.reason == "settled"
    assert events[-1]["n_violations"] == 1


def test_one_example():
    case = Case(1, 2, *no_graph(2), noise_scorer(1, 2, 0), SearchConfig(preset="paper"))
    machine, _ = run_search(case)
    assert machine.n_labelled == 1


# ---- Moves ----


def test_grow_doubles_the_labelled_examples():
    table = [[-0.1, -2.0], [-2.0, -0.1]] * 15
    config = SearchConfig(
        objective="mean_logprob", n_initial=4, min_temperature=1e6, **RANDOM_START
    )
    _, events = run_search(Case(30, 2, *no_graph(2), _constant_scorer(table), config))
    grown = [len(e["changes"]) for e in events if e["move"] == "grow"]
    assert grown == [4, 8, 14]


def test_growth_is_always_taken():
    _, events = run_search(_addition_costs(14))
    grown = [e for e in events if e["move"] == "grow"]
    assert [len(e["changes"]) for e in grown] == [6]
    assert all(e["accepted"] and e["forced"] and e["threshold"] is None for e in grown)
    assert any(e["utility_candidate"] < e["utility_before"] for e in grown)
    assert events[-1]["n_labelled"] == 14


def test_single_moves_try_the_largest_gains_first_and_give_up():
    def scorer(labels):
        # All prefer label 0, example 3 most; yet every example that holds it lowers all scores.
        cost = 9.0 * sum(y == 0 for y in labels)
        return [[-0.1 - cost, -3.0 - cost + 0.1 * abs(i - 3)] for i in range(6)]

    config = SearchConfig(
        objective="mean_logprob",
        moves=("single", "grow"),
        n_initial=6,
        min_temperature=0.0,
        initial_temperature=0.0,
        single_tries=2,
        **RANDOM_START,
    )
    _, events = run_search(Case(6, 2, *no_graph(2), scorer, config))
    holders = [i for i, _, label in events[0]["changes"] if label == 1]
    singles = [e for e in events if e["move"] == "single"]
    expected = sorted(holders, key=lambda i: abs(i - 3))[:2]
    assert [e["changes"][0][0] for e in singles] == expected
    assert not any(e["accepted"] for e in singles)
    assert events[-1]["reason"] == "settled"


def test_growth_follows_the_constraints_of_labelled_examples():
    config = SearchConfig(n_initial=6, group_weight=1_000_000, seed=3, **RANDOM_START)
    graph = group_graph(12, 2, ONE_TRUE)
    case = Case(12, 2, *graph, _constant_scorer([[-1.0, -1.1]] * 12), config)
    machine = case.start()
    events = list(run_steps(case, machine))
    assert events[-1]["n_labelled"] == 12
    assert events[-1]["n_violations"] == 0


def test_sweep_relabels_all_disagreeing_examples_for_one_evaluation():
    config = SearchConfig(objective="mean_logprob", n_initial=10, seed=1, **RANDOM_START)
    table = [[-0.1, -2.0]] * 10
    _, events = run_search(Case(10, 2, *no_graph(2), _constant_scorer(table), config))
    assert [e["move"] for e in events] == ["init", "sweep", "done"]
    assert len(events[1]["changes"]) == 5
    assert events[1]["n_asks"] == 2


def test_sweep_turns_a_whole_pair_around():
    # The pair is consistent, but the other consistent labelling is far better.
    graph = group_graph(2, 2, ONE_TRUE)
    table = [[-3.0, -0.1], [-1.0, -1.2]]
    for seed in range(6):
        config = SearchConfig(
            objective="mean_logprob", moves=("sweep",), n_initial=2, seed=seed, **RANDOM_START
        )
        machine, _ = run_search(Case(2, 2, *graph, _constant_scorer(table), config))
        assert machine.labels.tolist() == [1, 0]


def test_joint_assignment_prefers_few_violations():
    graph = group_graph(4, 4, equal_table(2))
    table = [[-0.1, -1.0]] * 3 + [[-2.0, -0.1]]
    config = SearchConfig(
        objective="mean_logprob", moves=("grow",), n_initial=1, growth=3.0, **RANDOM_START
    )
    for seed in range(6):
        case = Case(4, 2, *graph, _constant_scorer(table), config)
        machine, events = run_search(case)
        assert events[-1]["n_violations"] == 0, seed
        assert len(set(machine.labels.tolist())) == 1


def test_without_grow_single_moves_label_everything():
    config = SearchConfig(
        objective="mean_logprob",
        moves=("sweep", "single"),
        n_initial=2,
        min_temperature=1e6,
        **RANDOM_START,
    )
    table = [[-0.1, -2.0], [-2.0, -0.1], [-0.3, -0.4]] * 3
    machine, _ = run_search(Case(9, 2, *no_graph(2), _constant_scorer(table), config))
    assert machine.reason == "converged"
    assert machine.labels.tolist() == [0, 1, 0] * 3


@pytest.mark.parametrize(("both_false", "labels"), [(True, [0, 0]), (False, [1, 1])])
def test_fix_may_be_kept_from_both_false(both_false, labels):
    # Balanced labels violate the pair at the start; both false would score best.
    graph = group_graph(2, 2, equal_table(2))
    config = SearchConfig(
        preset="paper", fix_both_false=both_false, alpha=1.0, n_initial=2, max_iterations=0
    )
    machine, _ = run_search(Case(2, 2, *graph, _constant_scorer([[-0.1, -0.5]] * 2), config))
    assert machine.labels.tolist() == labels


def test_fix_takes_both_false_when_nothing_else_is_allowed():
    graph = (np.array([[0, 1]], np.int32), np.array([[[1, 0], [0, 0]]], np.uint8))
    config = SearchConfig(
        preset="paper", fix_both_false=False, alpha=1.0, n_initial=2, max_iterations=0
    )
    machine, _ = run_search(Case(2, 2, *graph, _constant_scorer([[-0.1, -0.5]] * 2), config))
    assert machine.labels.tolist() == [0, 0]


@pytest.mark.parametrize(("ties", "n_violations"), [(True, 0), (False, 1)])
def test_fix_accepts_ties_on_request(ties, n_violations):
    # Removing the violation gains 1 and costs 1 in the scores.
    graph = group_graph(2, 2, equal_table(2))

    def score(labels):
        worse = labels[0] == labels[1]
        return np.full((2, 2), -2.0 if worse else -1.0, np.float32)

    config = SearchConfig(
        preset="paper", fix_accepts_ties=ties, alpha=1.0, n_initial=2, max_iterations=0
    )
    _, events = run_search(Case(2, 2, *graph, score, config))
    assert events[0]["n_violations"] == n_violations


# ---- Zero-shot start and prior ----


def _told_zero_shot(prior, scores):
    """Scores that differ with and without demonstrations."""

    def score(labels):
        return np.array(prior if (np.asarray(labels) < 0).all() else scores, np.float32)

    return score


@pytest.mark.parametrize("engine", ENGINES)
def test_zero_shot_start_labels_all_by_calibrated_scores_within_the_constraints(engine):
    # Label 0 is preferred everywhere, so calibration decides; the pair may not agree.
    prior = [[-0.1, -2.3], [-0.2, -1.7], [-0.4, -1.1], [-0.3, -1.4]]
    graph = (np.array([[2, 3]], np.int32), np.array([ONE_TRUE], np.uint8))
    config = SearchConfig(max_evaluations=1, fix_rounds=0)
    machine, events = run_search(Case(4, 2, *graph, _constant_scorer(prior), config), engine)
    assert events[0]["move"] == "init"
    assert machine.labels.tolist() == [0, 0, 1, 0]
    assert machine.n_asks == 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("weight", "labels"), [(0.0, [1, 0, 1, 0]), (2.0, [0, 1, 0, 1])])
def test_prior_weighs_in_proposals(engine, weight, labels):
    # With demonstrations the scores say the opposite of what they say without, less clearly.
    prior = np.log([[0.8, 0.2], [0.2, 0.8]] * 2)
    scores = np.log([[0.4, 0.6], [0.6, 0.4]] * 2)
    config = dataclasses.replace(
        ANNEALING, prior_weight=weight, min_temperature=0.0, initial_temperature=0.0
    )
    case = Case(4, 2, *no_graph(2), _told_zero_shot(prior, scores), config)
    machine, _ = run_search(case, engine)
    assert machine.reason == "converged"
    assert machine.labels.tolist() == labels


@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_that_was_left_is_not_returned_to(engine):
    # Each of two labellings prefers the other one.
    def score(labels):
        likes = [1 - int(labels[0]), 1 - int(labels[1])] if min(labels) >= 0 else [0, 1]
        return np.log([[0.9, 0.1] if y == 0 else [0.1, 0.9] for y in likes]).astype(np.float32)

    config = SearchConfig(prior_weight=0.0, moves=("sweep",), max_iterations=50)
    machine, events = run_search(Case(2, 2, *no_graph(2), score, config), engine)
    assert [e["move"] for e in events] == ["init", "sweep", "done"]
    assert machine.reason == "settled"


NOTHING_ALLOWED = [[0, 0], [0, 0]]


@pytest.mark.parametrize("fix_rounds", [0, 3])
def test_a_violation_that_cannot_be_fixed_does_not_keep_a_search_busy(fix_rounds):
    # Found by fuzzing: draws that ask nothing and change nothing went on for 10**12 iterations,
    # each one an event in memory, in native code that Ctrl-C does not reach.
    config = SearchConfig(
        preset="paper", max_iterations=10**12, fix_rounds=fix_rounds, **RANDOM_START
    )
    scorer = _constant_scorer([[-0.1, -2.3]] * 2)
    machine = Case(2, 2, *group_graph(2, 2, NOTHING_ALLOWED), scorer, config).start()
    while (ask := machine.ask()) is not None:
        machine.tell(scorer(ask.labels))
    assert machine.reason == "converged"
    assert machine.iteration < 10**7


@pytest.mark.parametrize("name", ["fix_rounds", "group_weight"])
def test_settings_without_an_end_are_refused(name):
    # Found by fuzzing: SearchConfig has these limits, the engine had none.
    arguments = engine_settings(SearchConfig()) | {name: 2**62}
    with pytest.raises(ValueError, match=rf"{name} must lie in . \.\. 1000000"):
        _core.Engine(2, 2, *no_graph(2), **arguments)
