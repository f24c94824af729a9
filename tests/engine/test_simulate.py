"""Searches on synthetic scores, and what searches cost."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.token_cost import (
    PieceSizes,
    natural_tokens,
    proposal_tokens,
    search_cost,
    tree_tokens,
)
from icm_fast import _core
from icm_fast.config import PRESETS, SearchConfig
from icm_fast.engine.native import engine_settings, make_engine
from icm_fast.engine.simulate import simulate_search, synthetic_task
from icm_fast.errors import InputError
from run_fakes import toy_dataset

SIZES = PieceSizes(demonstration=40, query=36, root=1)


def parameters(task):
    return {
        name: getattr(task, name) for name in ("prior_strength", "prior_count", "trust", "lean")
    }


def plain_scores(task, labels):
    """The formula of csrc/engine/simulator.hpp, example by example."""
    n_labels = task.evidence.shape[1]
    rows = []
    for i in range(len(labels)):
        others = [j for j in range(len(labels)) if j != i and labels[j] >= 0]
        right = sum(labels[j] == task.truth[j] for j in others)
        wrong = len(others) - right
        direction = (task.prior_strength * task.prior_count + right - wrong) / (
            task.prior_count + len(others)
        )
        counts = np.array([sum(labels[j] == y for j in others) for y in range(n_labels)])
        logits = task.trust * direction * task.evidence[i].astype(float)
        logits += task.lean * np.log((counts + 1) / (len(others) + n_labels))
        rows.append(logits - np.logaddexp.reduce(logits))
    return np.array(rows)


@pytest.mark.parametrize("n_labels", [2, 3])
def test_scores_follow_the_formula(n_labels):
    task = synthetic_task(11, n_labels=n_labels, seed=3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = rng.integers(-1, n_labels, 11).astype(np.int32)
        scores = _core.synthetic_scores(labels, task.truth, task.evidence, **parameters(task))
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, plain_scores(task, labels), atol=1e-5)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "default"])
@pytest.mark.parametrize("group_size", [1, 3])
def test_a_simulation_is_the_engine_on_these_scores(preset, group_size):
    task = synthetic_task(18, group_size=group_size, seed=1)
    config = SearchConfig(preset=preset, max_iterations=300, seed=2)
    found = simulate_search(task, config)
    engine = _core.Engine(18, 2, task.pairs, task.tables, **engine_settings(config))
    asks, scored = np.zeros(19, int), {}
    while (ask := engine.ask()) is not None:
        asks[(ask.labels >= 0).sum()] += 1
        scores = _core.synthetic_scores(ask.labels, task.truth, task.evidence, **parameters(task))
        scored[ask.labels.tobytes()] = (ask.labels >= 0).sum()
        engine.tell(scores)
    events = engine.take_events()
    assert found.labels.tolist() == engine.result_labels.tolist()
    assert found.utility == engine.result_utility
    assert (found.reason, found.n_iterations) == (engine.reason, engine.iteration)
    assert found.asks.tolist() == asks.tolist()
    assert found.evaluations.tolist() == np.bincount(list(scored.values()), minlength=19).tolist()
    assert found.null_draws.sum() == sum(event["null_draws"] for event in events)


def test_null_draws_are_counted_at_the_size_at_which_they_were_made():
    found = simulate_search(synthetic_task(12, seed=3), SearchConfig(preset="paper", seed=0))
    # It begins with 8 labels, and scores larger labellings from the first draw on.
    assert not found.asks[:8].any()
    assert not found.null_draws[:8].any()
    assert found.null_draws[8:12].all()
    # Each iteration is a null draw or a move.
    assert found.null_draws.sum() < found.n_iterations


def test_true_labels_are_scored_too():
    task = synthetic_task(24, signal=3.0, seed=0)
    found = simulate_search(task, SearchConfig(preset="annealing", seed=0))
    scores = _core.synthetic_scores(task.truth, task.truth, task.evidence, **parameters(task))
    wanted = _core.utility(
        task.truth, scores, task.pairs, task.tables, objective="calibrated", alpha=50.0
    )
    assert found.true_utility == wanted
    assert found.utility >= found.true_utility
    assert (found.labels == task.truth).mean() > 0.9


def test_groups_have_one_example_with_the_last_label():
    task = synthetic_task(10, n_labels=3, group_size=4, seed=2)
    for first in (0, 4):
        assert (task.truth[first : first + 4] == 2).sum() == 1
    assert len(task.pairs) == 6 + 6 + 1
    assert task.tables[0].tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0]]


def test_bad_tasks_are_refused():
    with pytest.raises(InputError, match="group_size = 0 is too small"):
        synthetic_task(4, group_size=0)
    task = synthetic_task(4)
    for change, message in (
        ({"truth": np.array([0, 1, 0, 2], np.int32)}, "truth must lie inside"),
        ({"evidence": np.full((4, 2), np.nan, np.float32)}, "evidence must be finite"),
        ({"evidence": np.zeros((3, 2), np.float32)}, r"evidence must be \[n_examples, n_labels\]"),
    ):
        arrays = {"truth": task.truth, "evidence": task.evidence} | change
        with pytest.raises(ValueError, match=message):
            _core.simulate(
                2,
                task.pairs,
                task.tables,
                arrays["truth"],
                arrays["evidence"],
                **parameters(task),
                **engine_settings(SearchConfig(preset="annealing")),
            )
    with pytest.raises(TypeError, match="missing keyword argument 'trust'"):
        _core.synthetic_scores(
            task.truth, task.truth, task.evidence, prior_strength=1, prior_count=1
        )
    with pytest.raises(TypeError, match="unexpected keyword argument 'thrust'"):
        _core.synthetic_scores(
            task.truth, task.truth, task.evidence, **parameters(task), thrust=1.0
        )


# --- Costs ---------------------------------------------------------------------------------------


def natural_prompts(k):
    """The pieces of every prompt, ("demo", j) and ("query", i), after a root token."""
    return [[("demo", j) for j in range(k) if j != i] + [("query", i)] for i in range(k)]


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_natural_order_is_counted_prompt_by_prompt(k):
    size = {"demo": 40, "query": 36}
    whole = cached = 0
    before = []
    for prompt in natural_prompts(k):
        same = 0
        while same < min(len(prompt), len(before)) and prompt[same] == before[same]:
            same += 1
        whole += 1 + sum(size[kind] for kind, _ in prompt)
        cached += sum(size[kind] for kind, _ in prompt[same:]) + (not before)
        before = prompt
    assert natural_tokens(k, SIZES, cached=False) == whole
    assert natural_tokens(k, SIZES, cached=True) == cached


def test_nothing_labelled_costs_nothing_in_the_natural_order():
    assert natural_tokens(0, SIZES, cached=True) == natural_tokens(0, SIZES, cached=False) == 0
    assert proposal_tokens(4, SIZES, cached=False) == 1 + 160 + 36
    assert proposal_tokens(4, SIZES, cached=True) == 80 + 36


def test_the_tree_costs_n_log_n():
    # 64 leaves: 64 * 6 demonstrations, 64 queries, one root token.
    assert tree_tokens(64, 64, SIZES) == 64 * 6 * 40 + 64 * 36 + 1


def test_a_search_is_the_sum_of_its_evaluations():
    counts = SimpleNamespace(
        evaluations=np.array([0, 0, 1, 0, 2]),
        asks=np.array([0, 0, 1, 0, 3]),
        null_draws=np.array([0, 0, 0, 0, 7]),
        lookups=np.array([0, 0, 1, 0, 0]),
        extra_rows=np.array([0, 0, 2, 0, 0]),
    )
    cost = search_cost(counts, SIZES)
    one_row, two, four = (tree_tokens(k, n, SIZES) for k, n in ((2, 3), (2, 4), (4, 4)))
    # One unlabelled example is scored with the labelling, the other one later.
    later = SIZES.root + 2 * SIZES.demonstration + SIZES.query
    assert cost.ours == one_row + later + 2 * four
    assert cost.ours_all_rows == two + 2 * four
    assert cost.ours_every_step == two + 10 * four
    both = SIZES.demonstration + SIZES.query
    looks = 3 * SIZES.demonstration + 2 * SIZES.query
    assert cost.ours_appending == 2 * both + 2 * 4 * both + looks
    assert (cost.n_evaluations, cost.n_steps) == (3, 11)
    assert cost.natural_whole == sum(
        steps * (natural_tokens(k, SIZES, cached=False) + proposal_tokens(k, SIZES, cached=False))
        for k, steps in ((2, 1), (4, 10))
    )
    # Of the four steps of these sizes that need U(D), each scored once; every draw is one prompt.
    proposals = proposal_tokens(2, SIZES, cached=True) + 10 * proposal_tokens(4, SIZES, cached=True)
    scored = natural_tokens(2, SIZES, cached=True) + 3 * natural_tokens(4, SIZES, cached=True)
    assert cost.authors_cached == scored + proposals
    assert cost.ours < cost.authors_cached < cost.natural_cached < cost.natural_whole


def test_a_search_of_256_examples_costs_a_hundredth_of_every_step_scored():
    """Two others against ours at the same decisions, by token count: name the one you compare."""
    for seed in range(3):
        task = synthetic_task(256, seed=seed)
        found = simulate_search(task, SearchConfig(preset="paper", seed=seed))
        cost = search_cost(found, SIZES)
        assert cost.natural_cached > 100 * cost.ours
        # The authors' code spends one prompt at a null draw.
        assert 8 * cost.ours < cost.authors_cached < 15 * cost.ours
        assert 35 * cost.ours_appending < cost.authors_cached < 60 * cost.ours_appending


# ---- Any number of classes, any shares ----


def agreements(n_labels, shares, given):
    found = []
    for seed in range(12):
        task = synthetic_task(64, n_labels=n_labels, signal=2.0, shares=shares, seed=seed)
        config = SearchConfig(preset="annealing", seed=seed, label_shares=given)
        found.append(float((simulate_search(task, config).labels == task.truth).mean()))
    return found


@pytest.mark.parametrize("n_labels", [2, 3, 5])
def test_calibrated_searches_do_not_collapse_with_more_classes(n_labels):
    for seed in range(12):
        task = synthetic_task(64, n_labels=n_labels, signal=2.0, seed=seed)
        result = simulate_search(task, SearchConfig(preset="annealing", seed=seed))
        assert np.bincount(result.labels, minlength=n_labels).max() < 64 * (0.25 + 1 / n_labels)
        assert result.utility >= result.true_utility - 1e-9


@pytest.mark.parametrize(("n_labels", "shares"), [(2, (0.9, 0.1)), (3, (0.7, 0.2, 0.1))])
def test_known_shares_help_where_labels_are_unbalanced(n_labels, shares):
    blind, told = agreements(n_labels, shares, ()), agreements(n_labels, shares, shares)
    assert np.mean(told) > np.mean(blind) + 0.04
    assert np.mean(told) > 0.85


def test_shares_are_checked():
    with pytest.raises(InputError, match="add up"):
        SearchConfig(label_shares=(0.5, 0.6))
    with pytest.raises(InputError, match=r"label_shares\[1\] = 0\.0 is outside 1e-09"):
        SearchConfig(label_shares=(1.0, 0.0))
    with pytest.raises(InputError, match=r"3 numbers.*2 labels"):
        make_engine(SearchConfig(label_shares=(0.2, 0.3, 0.5)), toy_dataset(4))
    with pytest.raises(InputError, match="probabilities"):
        synthetic_task(8, shares=(0.5, 0.6))


# ---- Given labels to start from ----


def test_a_search_starts_from_the_labels_it_is_given():
    task = synthetic_task(32, signal=2.0, seed=3)
    shown = np.full(32, -1)
    shown[:8] = task.truth[:8]
    config = SearchConfig(preset="paper", start="given", initial_labels=shown, seed=3)
    engine = make_engine(config, toy_dataset(32))
    np.testing.assert_array_equal(engine.ask().labels, shown)


def test_given_labels_are_checked():
    with pytest.raises(InputError, match="start=given together"):
        SearchConfig(initial_labels=(0, 1))
    with pytest.raises(InputError, match="start=given together"):
        SearchConfig(start="given")
    with pytest.raises(InputError, match=r"initial_labels\[1\] = 0.5"):
        SearchConfig(start="given", initial_labels=(0, 0.5))
    for labels, message in (
        ((0, 1), "2 entries"),
        ((0, 1, 2, 0), r"initial_labels\[2\] = 2 is outside"),
        ((-1, -1, -1, -1), "label no example"),
    ):
        with pytest.raises(InputError, match=message):
            make_engine(SearchConfig(start="given", initial_labels=labels), toy_dataset(4))


def test_a_bootstrap_is_not_simulated():
    task = synthetic_task(8, seed=0)
    with pytest.raises(InputError, match="use preset=annealing"):
        simulate_search(task, SearchConfig())
    assert simulate_search(task).labels.shape == (8,)
