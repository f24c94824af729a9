"""Known labels: kept from the first state on, evidence for all others."""

import re
from dataclasses import replace

import numpy as np
import pytest
from engine_cases import (
    ENGINES,
    EXCLUSIVE,
    ONE_TRUE,
    Case,
    group_graph,
    no_graph,
    noise_scorer,
    run_search,
)

import icm_fast
from icm_fast import _core
from icm_fast.config import PRESETS, SearchConfig
from icm_fast.engine.chains import make_search_engine
from icm_fast.engine.concerns import find_rival, search_concerns
from icm_fast.engine.doctor import growth_sizes
from icm_fast.engine.native import labelling_utility, make_engine
from icm_fast.engine.simulate import simulate_search, synthetic_task
from icm_fast.errors import InputError
from icm_fast.runs.score_log import ScoredLabelling
from icm_fast.types import Constraint, Dataset
from run_fakes import FakeScored, FakeScorer, toy_dataset

KNOWN = (1, -1, -1, 0, -1, 1)


def constrained(*constraints):
    dataset = toy_dataset(4)
    return Dataset(dataset.examples, dataset.label_space, constraints, name="toy")


# ---- What is refused ----


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((0, 1), "fixed_labels has 2 entries, but the data set has 4 examples; give one for each"),
        ((0, 1, 2, 0), r"fixed_labels\[2\] = 2 is outside -1 .. 1"),
    ],
)
def test_known_labels_fit_the_data_set(labels, message):
    with pytest.raises(InputError, match=message):
        make_engine(SearchConfig(fixed_labels=labels), toy_dataset(4))
    with pytest.raises(InputError, match=message):
        icm_fast.search(
            toy_dataset(4),
            model="x",
            config=SearchConfig(fixed_labels=labels),
            scorer=FakeScorer(4),
        )


@pytest.mark.parametrize("wrong", [-2, 0.5, True, "no"])
def test_a_known_label_is_an_index(wrong):
    with pytest.raises(InputError, match=re.escape(f"fixed_labels[1] = {wrong!r} is not a label")):
        SearchConfig(fixed_labels=(0, wrong))


def test_known_labels_that_contradict_each_other_are_refused_by_name():
    dataset = constrained(
        Constraint(0, 1, EXCLUSIVE, "one-true"), Constraint(1, 3, ((1, 0), (0, 1)), "same")
    )
    message = "the rule 'same': 'e1' (row 1) as ' yes' and 'e3' (row 3) as ' no'; correct one"
    with pytest.raises(InputError, match=re.escape(message)):
        make_engine(SearchConfig(fixed_labels=(-1, 1, -1, 0)), dataset)
    make_engine(SearchConfig(fixed_labels=(0, 1, -1, 1)), dataset)


def test_a_simulation_refuses_them_too():
    with pytest.raises(ValueError, match=r"fixed_labels must be \[n_examples\]"):
        simulate_search(synthetic_task(8), SearchConfig(preset="annealing", fixed_labels=(0,)))


# ---- The start ----


@pytest.mark.parametrize("engine", ENGINES)
def test_a_zero_shot_start_sees_the_known_labels(engine):
    config = SearchConfig(fixed_labels=KNOWN)
    machine = Case(6, 2, *no_graph(2), noise_scorer(6, 2, 1), config).start(engine)
    assert machine.ask().labels.tolist() == list(KNOWN)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_random_start_labels_others(engine):
    for seed in range(10):
        config = SearchConfig(preset="paper", fixed_labels=KNOWN, n_initial=2, seed=seed)
        labels = Case(6, 2, *no_graph(2), noise_scorer(6, 2, 1), config).start(engine).ask().labels
        assert labels[[0, 3, 5]].tolist() == [1, 0, 1]
        assert sorted(labels[[1, 2, 4]].tolist()) == [-1, 0, 1]


@pytest.mark.parametrize("engine", ENGINES)
def test_known_labels_win_over_those_to_start_from(engine):
    config = SearchConfig(
        preset="paper", start="given", initial_labels=(0, 0, -1, -1, 1, 0), fixed_labels=KNOWN
    )
    machine = Case(6, 2, *no_graph(2), noise_scorer(6, 2, 1), config).start(engine)
    assert machine.ask().labels.tolist() == [1, 0, -1, 0, 1, 1]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_chain_and_every_restart_keeps_them(preset):
    config = SearchConfig(
        preset=preset, fixed_labels=KNOWN, chains=3, restarts=3, kick=1.0, max_iterations=40
    )
    engine = make_search_engine(config, toy_dataset(6))
    scorer = noise_scorer(6, 2, 3)
    while (ask := engine.ask()) is not None:
        assert ask.labels[[0, 3, 5]].tolist() == [1, 0, 1]
        engine.tell(scorer(ask.labels))
    assert engine.result_labels[[0, 3, 5]].tolist() == [1, 0, 1]
    assert (engine.result_labels >= 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_searched_where_all_is_known(engine):
    config = SearchConfig(fixed_labels=(0, 1, 1), restarts=2)
    machine, events = run_search(Case(3, 2, *no_graph(2), noise_scorer(3, 2, 1), config), engine)
    assert machine.result_labels.tolist() == [0, 1, 1]
    assert not any(e["accepted"] and e["changes"] for e in events[1:])


# ---- Constraints ----


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_known_label_decides_its_group(preset, engine):
    """One of each pair is true; the scores prefer the opposite of what is known."""
    graph = group_graph(8, 2, ONE_TRUE)
    scores = np.log(np.array([[0.1, 0.9]] * 8, np.float32))
    config = SearchConfig(
        preset=preset,
        fixed_labels=(1, -1) * 4,
        max_iterations=200,
        alpha=0.1,
        objective="mean_logprob",
    )
    machine, events = run_search(Case(8, 2, *graph, lambda _: scores, config), engine)
    assert machine.result_labels.tolist() == [1, 0] * 4
    assert events[-1]["n_violations"] == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_group_without_a_consistent_label_keeps_its_violation(preset, engine):
    # Example 1 must differ from 0 and equal 2, which are both 1.
    pairs = np.array([[0, 1], [1, 2]], np.int32)
    tables = np.array([ONE_TRUE, ((1, 0), (0, 1))], np.uint8)
    config = SearchConfig(preset=preset, fixed_labels=(1, -1, 1, -1), max_iterations=50)
    case = Case(4, 2, pairs, tables, noise_scorer(4, 2, 1), config)
    machine, events = run_search(case, engine)
    assert machine.reason in ("settled", "max_iterations", "converged")
    assert events[-1]["n_violations"] == 1
    assert machine.result_labels[[0, 2]].tolist() == [1, 1]


def test_a_violation_that_known_labels_hold_is_named():
    dataset = constrained(Constraint(0, 1, EXCLUSIVE), Constraint(2, 3, EXCLUSIVE))
    labels = np.array([1, 1, 1, 1], np.int32)
    for fixed, held in (((1, -1, -1, -1), "hold one end of 1 of them"), ((), "more weight")):
        config = SearchConfig(fixed_labels=fixed)
        [concern] = [
            c for c in search_concerns(labels, 1.0, dataset, config, None) if c.kind == "violations"
        ]
        assert concern.text.startswith("2 of 2 constraints are violated")
        assert held in concern.text


# ---- The calibrated objective ----


def test_known_examples_and_others_are_calibrated_apart():
    """Which labels are known says nothing of how frequent a label is among the others."""
    p = np.array([[0.1, 0.9], [0.3, 0.7], [0.6, 0.4], [0.8, 0.2], [0.5, 0.5]])
    labels = np.array([1, 1, 0, 1, -1], np.int32)
    fixed = np.array([1, 1, -1, -1, -1], np.int32)
    terms = np.log([0.9, 0.7, 0.6, 0.2]) - np.log([0.8, 0.8, 0.7, 0.3])
    found = _core.utility(
        labels, np.log(p).astype(np.float32), *no_graph(2), "calibrated", 1.0, fixed_labels=fixed
    )
    assert found == pytest.approx(terms.mean(), abs=1e-6)


def test_one_label_everywhere_gains_nothing_by_known_labels_of_one_kind():
    rng = np.random.default_rng(0)
    scores = np.log(rng.dirichlet([1, 1], 20)).astype(np.float32)
    for y in (0, 1):
        fixed = np.where(np.arange(20) < 8, y, -1).astype(np.int32)
        for other in (0, 1):
            labels = np.where(fixed < 0, other, y).astype(np.int32)
            assert (
                _core.utility(labels, scores, *no_graph(2), "calibrated", 1.0, fixed_labels=fixed)
                <= 0
            )


def test_the_utility_outside_the_search_is_that_of_the_search():
    config = SearchConfig(fixed_labels=KNOWN)
    case = Case(6, 2, *no_graph(2), noise_scorer(6, 2, 5), config)
    machine, _ = run_search(case)
    found = labelling_utility(toy_dataset(6), machine.result_labels, machine.result_scores, config)
    assert found == machine.result_utility
    unaware = replace(config, fixed_labels=())
    assert found != labelling_utility(
        toy_dataset(6), machine.result_labels, machine.result_scores, unaware
    )


def test_fixed_labels_validate_in_utility():
    labels, scores = np.zeros(3, np.int32), np.zeros((3, 2), np.float32)
    for fixed, message in (([0, 2, 0], "outside -1 .. 1"), ([0, 0], "fixed_labels has 2 entries")):
        with pytest.raises(ValueError, match=message):
            _core.utility(
                labels,
                scores,
                *no_graph(2),
                "calibrated",
                1.0,
                fixed_labels=np.array(fixed, np.int32),
            )


# ---- What is said of the result ----


def test_concerns_look_at_the_labels_that_were_chosen():
    labels = np.array([0, 1] * 8 + [1] * 20, np.int32)
    config = SearchConfig(fixed_labels=[0, 1] * 8 + [-1] * 20)
    dataset = toy_dataset(36)
    kinds = [c.kind for c in search_concerns(labels, 1.0, dataset, config, None)]
    assert kinds == ["one-sided"]
    assert search_concerns(labels, 1.0, dataset, SearchConfig(), None) == ()


def test_a_rival_differs_among_the_labels_that_were_chosen():
    labels = np.array([0, 1] * 6, np.int32)
    other = labels.copy()
    other[10:] = 1 - other[10:]
    scored = [ScoredLabelling(other, np.log(np.full((12, 2), 0.5, np.float32)), 1)]
    assert find_rival(labels, toy_dataset(12), SearchConfig(), scored) is None
    config = SearchConfig(fixed_labels=[0, 1] * 4 + [-1] * 4)
    rival = find_rival(labels, toy_dataset(12), config, scored)
    assert rival is not None
    assert rival.differs == 0.5


def test_the_doctor_counts_the_known_labels():
    fixed = [0, 1, 0] + [-1] * 27
    config = SearchConfig(preset="annealing", n_initial=4, fixed_labels=fixed)
    assert growth_sizes(30, config) == [3, 7, 14, 28]
    paper = SearchConfig(preset="paper", n_initial=4, fixed_labels=fixed[:9])
    assert growth_sizes(9, paper) == [7, 8]
    assert growth_sizes(3, SearchConfig(fixed_labels=(0, 1, 0))) == [3]


# ---- Run folders ----


def test_known_labels_belong_to_the_run(tmp_path):
    def search(fixed):
        config = SearchConfig(preset="paper", max_evaluations=12, fixed_labels=fixed)
        return icm_fast.search(
            toy_dataset(6), model="fake", config=config, scorer=FakeScorer(6), output_dir=tmp_path
        )

    result = search(KNOWN)
    assert result.labels[[0, 3, 5]].tolist() == [1, 0, 1]
    assert (search(KNOWN).labels == result.labels).all()
    with pytest.raises(InputError, match="holds a different run: fixed_labels is"):
        search(())
    with pytest.raises(InputError, match="holds a different run: fixed_labels is"):
        search((1, -1, -1, 0, -1, -1))


def test_a_run_without_known_labels_is_recorded_as_ever():
    assert "fixed_labels" not in SearchConfig().to_dict()
    assert SearchConfig(fixed_labels=KNOWN).to_dict()["fixed_labels"] == list(KNOWN)


# ---- What they are good for ----


class SyntheticScorer(FakeScorer):
    """A model that hardly knows which way round the labels are, but sees which texts are alike."""

    def __init__(self, task):
        super().__init__(*task.evidence.shape)
        self.task = task

    def score(self, labels, queries=None):
        self.calls += 1
        scores = _core.synthetic_scores(
            np.asarray(labels, np.int32),
            self.task.truth,
            self.task.evidence,
            prior_strength=-0.1,
            prior_count=4.0,
            trust=4.0,
            lean=0.5,
        )
        if queries is not None:
            scores[~queries] = np.nan
        return FakeScored(scores, 1)


def agreement_of_the_others(preset, seed, n_known):
    task = synthetic_task(64, signal=2.0, seed=seed)
    known = np.random.default_rng(seed).permutation(64)[:16]
    fixed = np.full(64, -1)
    fixed[known[:n_known]] = task.truth[known[:n_known]]
    config = SearchConfig(preset=preset, seed=seed, fixed_labels=fixed)
    result = icm_fast.search(
        toy_dataset(64), model="fake", config=config, scorer=SyntheticScorer(task)
    )
    return float(np.delete(result.labels == task.truth, known).mean())


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_sixteen_known_labels_of_64_raise_the_agreement_of_the_others(preset):
    seeds = range(5)
    without = np.mean([agreement_of_the_others(preset, seed, 0) for seed in seeds])
    with_them = np.mean([agreement_of_the_others(preset, seed, 16) for seed in seeds])
    assert with_them > without + 0.2
    assert with_them > 0.85
