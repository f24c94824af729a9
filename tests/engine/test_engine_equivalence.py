"""The native engine makes the decisions of the reference engine, bit for bit."""

import numpy as np
import pytest
from engine_cases import (
    EXCLUSIVE,
    FORMER_AUTHORS_CODE,
    ONE_TRUE,
    RANDOM_START,
    Case,
    coarse_scorer,
    coupled_scorer,
    equal_table,
    group_graph,
    no_graph,
    noise_scorer,
    random_graph,
    run_search,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from icm_fast import _core
from icm_fast.config import (
    COOLING_CLOCKS,
    FIX_OPTIONS,
    FIX_PAIRS,
    OBJECTIVES,
    STARTS,
    SearchConfig,
)
from icm_fast.config import PRESETS as PRESET_NAMES
from reference import ReferenceEngine


def assert_same_search(case: Case, max_events: int = 10**9) -> int:
    """Drive both engines with the same scores; return the number of events they agreed on."""
    native, oracle = case.start(_core.Engine), case.start(ReferenceEngine)
    n_events = 0
    while True:
        events = native.take_events()
        assert events == oracle.take_events()
        n_events += len(events)
        _assert_same_state(native, oracle)
        if events:
            _assert_known_labels(case, native.labels)
        ask, expected = native.ask(), oracle.ask()
        if ask is None or expected is None or n_events >= max_events:
            assert (ask is None) == (expected is None)
            return n_events
        assert ask.labels.tolist() == expected.labels.tolist()
        assert ask.threshold == expected.threshold
        _assert_known_labels(case, ask.labels)
        scores = case.scorer(ask.labels)
        native.tell(scores)
        oracle.tell(scores)


def consistent(labels: list[int], pairs: np.ndarray, tables: np.ndarray) -> tuple[int, ...]:
    """The labels without those that contradict an earlier pair."""
    kept = list(labels)
    for (i, j), table in zip(pairs, tables, strict=True):
        if min(kept[i], kept[j]) >= 0 and not table[kept[i], kept[j]]:
            kept[j] = -1
    return tuple(kept)


def _assert_known_labels(case: Case, labels: np.ndarray) -> None:
    for label, known in zip(
        labels, case.config.fixed_labels, strict=bool(case.config.fixed_labels)
    ):
        assert known in (-1, label)


def _assert_same_state(native, oracle):
    for name in ("labels", "scores", "result_labels", "result_scores"):
        np.testing.assert_array_equal(getattr(native, name), getattr(oracle, name))
    for name in (
        *("utility", "result_utility", "temperature", "iteration", "n_asks"),
        *("n_labelled", "n_accepted", "done", "reason"),
    ):
        assert getattr(native, name) == getattr(oracle, name), name


SHARES = {2: (0.9, 0.1), 3: (0.2, 0.5, 0.3), 4: (0.1, 0.2, 0.3, 0.4)}
SCORERS = [noise_scorer, coarse_scorer, coupled_scorer]
PRESETS = st.sampled_from(PRESET_NAMES)
MOVES = st.sampled_from(
    [
        None,
        ("single",),
        ("sweep",),
        ("grow",),
        ("single", "sweep"),
        ("single", "grow"),
        ("sweep", "grow"),
        ("group",),
        ("group", "single"),
        ("grow", "sweep", "group"),
    ]
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), preset=PRESETS, moves=MOVES)
def test_random_searches(data, seed, preset, moves):
    n, n_labels = data.draw(st.integers(1, 10)), data.draw(st.integers(2, 4))
    rng = np.random.default_rng(seed)
    n_pairs = data.draw(st.integers(0, n)) if n > 1 else 0
    scorer = data.draw(st.sampled_from(SCORERS))(n, n_labels, seed % 1000)
    start = data.draw(st.sampled_from([None, *STARTS]))
    some = st.lists(st.integers(-1, n_labels - 1), min_size=n, max_size=n).filter(
        lambda labels: max(labels) >= 0
    )
    graph = random_graph(rng, n, n_labels, n_pairs)
    known = st.lists(
        st.integers(-2, n_labels - 1).map(lambda y: max(y, -1)), min_size=n, max_size=n
    )
    config = SearchConfig(
        preset=preset,
        moves=moves,
        objective=data.draw(st.sampled_from([None, *OBJECTIVES])),
        cooling_clock=data.draw(st.sampled_from([None, *COOLING_CLOCKS])),
        alpha=data.draw(st.sampled_from([1.0, 50.0])),
        initial_temperature=data.draw(st.sampled_from([None, 0.0, 10.0])),
        min_temperature=data.draw(st.sampled_from([0.0, 0.01])),
        start=start,
        initial_labels=data.draw(some) if start == "given" else (),
        fixed_labels=data.draw(st.just(()) | known.map(lambda labels: consistent(labels, *graph))),
        prior_weight=data.draw(st.sampled_from([None, 0.0, 0.3, 4.0])),
        n_initial=data.draw(st.integers(1, 12)),
        fix_rounds=data.draw(st.integers(0, 4)),
        fix_both_false=data.draw(st.booleans()),
        fix_accepts_ties=data.draw(st.booleans()),
        fix_pairs=data.draw(st.sampled_from([None, *FIX_PAIRS])),
        fix_options=data.draw(st.sampled_from([None, *FIX_OPTIONS])),
        fix_forced=data.draw(st.sampled_from([None, False, True])),
        quiet_null_draws=data.draw(st.sampled_from([None, False, True])),
        initial_groups=data.draw(st.sampled_from([None, False, True])),
        violation_weight=data.draw(st.sampled_from([None, 0.0, 2.0])),
        growth=data.draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])),
        label_shares=data.draw(st.sampled_from([(), tuple(SHARES[n_labels])])),
        restarts=data.draw(st.sampled_from([0, 0, 1, 3])),
        kick=data.draw(st.sampled_from([0.01, 0.25, 1.0])),
        max_iterations=data.draw(st.integers(-1, 60)),
        max_evaluations=data.draw(st.sampled_from([0, 0, 1, 7, 40])),
        return_best=data.draw(st.booleans()),
        seed=seed + 2**33 * (seed % 2),
    )
    case = Case(n, n_labels, *graph, scorer, config)
    assert assert_same_search(case) >= 2


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_searches_full_of_ties(preset):
    for seed in range(25):
        rng = np.random.default_rng(seed)
        n, n_labels = int(rng.integers(2, 11)), int(rng.integers(2, 5))
        config = SearchConfig(preset=preset, seed=seed, max_iterations=60, alpha=1.0)
        graph = random_graph(rng, n, n_labels, n)
        assert_same_search(Case(n, n_labels, *graph, coarse_scorer(n, n_labels, seed), config))


@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("start", STARTS)
def test_searches_with_known_labels(preset, start):
    """A third of the examples is known, in all presets, starts, and kinds of constraints."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        n, n_labels = int(rng.integers(6, 11)), int(rng.integers(2, 4))
        graph = random_graph(rng, n, n_labels, (0, n // 2, 2 * n)[seed % 3])
        known = np.where(rng.random(n) < 0.35, rng.integers(0, n_labels, n), -1)
        config = SearchConfig(
            preset=preset,
            start=start,
            initial_labels=rng.integers(0, n_labels, n).tolist() if start == "given" else (),
            fixed_labels=consistent(known.tolist(), *graph),
            max_iterations=40,
            restarts=seed % 3,
            seed=seed,
        )
        scorer = SCORERS[seed % len(SCORERS)](n, n_labels, seed)
        assert_same_search(Case(n, n_labels, *graph, scorer, config))


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_no_known_label_is_as_good_as_no_setting(preset):
    graph = group_graph(12, 3, EXCLUSIVE)
    found = []
    for fixed in ((), (-1,) * 12):
        config = SearchConfig(preset=preset, seed=4, max_iterations=80, fixed_labels=fixed)
        found.append(run_search(Case(12, 2, *graph, noise_scorer(12, 2, 4), config))[1])
    assert found[0] == found[1]


DEFAULT, GROWING = {"preset": "annealing"}, {"preset": "annealing", **RANDOM_START}
SYNTHETIC_TASKS = {
    "paper-exclusive": ({"preset": "paper"}, 2, group_graph(24, 3, EXCLUSIVE), noise_scorer),
    "authors-code-pairs": (
        FORMER_AUTHORS_CODE,
        2,
        group_graph(24, 2, ONE_TRUE),
        noise_scorer,
    ),
    "paper-plain": ({"preset": "paper"}, 3, no_graph(3), noise_scorer),
    "default-equal": (GROWING, 3, group_graph(24, 4, equal_table(3)), noise_scorer),
    "default-coupled": (GROWING, 2, group_graph(24, 2, ONE_TRUE), coupled_scorer),
    "default-zero-shot": (DEFAULT, 2, group_graph(24, 2, ONE_TRUE), noise_scorer),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", SYNTHETIC_TASKS)
def test_two_hundred_decisions(task, seed):
    """Searches that end early are followed by others until 200 decisions were compared."""
    settings, n_labels, graph, scorer = SYNTHETIC_TASKS[task]
    n_events = 0
    for restart in range(80):
        config = SearchConfig(**settings, seed=seed + 100 * restart)
        # What starts from the scores alone needs others to take another way.
        scores = scorer(24, n_labels, seed + 10 * restart if settings is DEFAULT else seed)
        case = Case(24, n_labels, *graph, scores, config)
        n_events += assert_same_search(case, max_events=201)
        if n_events >= 201:
            return
    pytest.fail(f"only {n_events} decisions in 80 searches")


def test_large_components_are_labelled_greedily():
    # One component of 14 examples has 2^14 assignments, above the limit of 4096.
    config = SearchConfig(n_initial=2, seed=3, max_iterations=20, **RANDOM_START)
    graph = group_graph(14, 14, EXCLUSIVE)
    assert_same_search(Case(14, 2, *graph, noise_scorer(14, 2, 5), config))
