"""Draws that propose what is there are skipped at once, under the law of drawing one by one."""

import numpy as np
import pytest
from engine_cases import EXCLUSIVE, Case, group_graph, no_graph

from icm_fast.config import SearchConfig

N_SEARCHES = 3000
# Kolmogorov's distribution: larger distances have a probability below 0.001.
CRITICAL = 1.95


def constant_scorer(n):
    """Examples prefer label 0 and, every third one, label 1; nothing ever changes that."""
    table = np.full((n, 2), -0.1, np.float32)
    table[np.arange(n), (np.arange(n) % 3 != 0).astype(int)] = -2.0
    return lambda labels: table


def first_draw(case):
    """State before the first move, null draws before it, and the example that it changes."""
    machine = case.start()
    machine.tell(case.scorer(machine.ask().labels))
    machine.take_events()
    labels, scores = machine.labels, machine.scores
    while not (events := machine.take_events()):
        if machine.ask() is None:
            return None
        machine.tell(case.scorer(machine.ask().labels))
    if not events[0]["changes"]:
        return None
    return labels, scores, events[0]["null_draws"], events[0]["changes"][0][0]


def weights_of(case, labels):
    """Weight of each example in one draw of the paper's Algorithm 1."""
    weights = np.ones(case.n)
    for i, j in case.pairs:
        for a, b in ((i, j), (j, i)):
            if labels[a] < 0 <= labels[b]:
                weights[a] = case.config.group_weight
    return weights


def distance_from_uniform(values):
    """Kolmogorov-Smirnov statistic, scaled by the root of the number of values."""
    values, n = np.sort(values), len(values)
    steps = np.arange(1, n + 1) / n
    return np.sqrt(n) * max(np.max(steps - values), np.max(values - steps + 1 / n))


def draws_one_by_one(rng, weights, real):
    """The rendering to compare with: draw until the example would change something."""
    n_null = 0
    while True:
        example = rng.choice(len(weights), p=weights / weights.sum())
        if real[example]:
            return n_null, example
        n_null += 1


def spread(rng, value, probabilities):
    """Probability integral transform of a discrete value, spread over its step: uniform."""
    before = probabilities[:value].sum()
    return before + rng.random() * probabilities[value]


@pytest.mark.parametrize("name", ["plain", "constrained"])
def test_gaps_and_examples_have_the_law_of_single_draws(name):
    n = 12
    graph = no_graph(2) if name == "plain" else group_graph(n, 2, EXCLUSIVE)
    rng = np.random.default_rng(0)
    gaps, examples, loop_gaps, loop_examples = [], [], [], []
    for seed in range(N_SEARCHES):
        config = SearchConfig(preset="paper", seed=seed, n_initial=7, fix_rounds=0, group_weight=3)
        case = Case(n, 2, *graph, constant_scorer(n), config)
        found = first_draw(case)
        if found is None or (name == "constrained" and case.violations(found[0])):
            continue
        labels, scores, n_null, example = found
        weights = weights_of(case, labels)
        real = (labels < 0) | (scores.argmax(axis=1) != labels)
        p = weights[real].sum() / weights.sum()
        geometric = p * (1 - p) ** np.arange(200)
        chances = np.where(real, weights, 0) / weights[real].sum()
        gaps.append(spread(rng, n_null, geometric))
        examples.append(spread(rng, example, chances))
        loop = draws_one_by_one(rng, weights, real)
        loop_gaps.append(spread(rng, loop[0], geometric))
        loop_examples.append(spread(rng, loop[1], chances))
    assert len(gaps) > 500
    for values in (gaps, examples, loop_gaps, loop_examples):
        assert distance_from_uniform(np.array(values)) < CRITICAL
    # Both together: a gap says nothing about the example that follows.
    assert abs(np.corrcoef(gaps, examples)[0, 1]) < 4 / np.sqrt(len(gaps))


def test_the_statistic_finds_a_wrong_law():
    """One null draw too many in every tenth search would not go unnoticed."""
    rng = np.random.default_rng(1)
    wrong = []
    for k in range(N_SEARCHES):
        n_null = int(rng.geometric(0.4)) - 1 + (k % 10 == 0)
        wrong.append(spread(rng, n_null, 0.4 * 0.6 ** np.arange(200)))
    assert distance_from_uniform(np.array(wrong)) > CRITICAL


def test_unlabelled_draws_do_not_depend_on_scores():
    """What may be drawn next is known before a labelling is scored."""
    case = Case(10, 2, *no_graph(2), constant_scorer(10), SearchConfig(preset="paper", seed=4))
    machine = case.start()
    while (ask := machine.ask()) is not None:
        ahead = ask.rows & (ask.labels < 0)
        assert ahead.any() == (ask.labels < 0).any()
        assert ask.is_lookup or ask.rows[ask.labels >= 0].all()
        machine.tell(np.where(ask.rows[:, None], case.scorer(ask.labels), np.nan))
        for event in machine.take_events():
            for example, before, _ in event["changes"]:
                if before < 0 and event["move"] == "single":
                    # A lookup may have brought it in later, but never all of them at once.
                    assert np.isfinite(case.scorer(ask.labels)[example]).all()
    assert machine.labels.min() >= 0
