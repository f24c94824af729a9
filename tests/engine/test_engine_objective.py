"""Objectives and constraint counts: native against plain Python, and against known values."""

import math

import numpy as np
import pytest
from engine_cases import equal_table, no_graph, random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from icm_fast import _core
from icm_fast.config import OBJECTIVES


def _utility(labels, scores, objective, alpha=1.0, graph=None):
    pairs, tables = graph or no_graph(len(scores[0]))
    return _core.utility(
        np.array(labels, np.int32), np.array(scores, np.float32), pairs, tables, objective, alpha
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 12),
    n_labels=st.integers(2, 4),
    n_pairs=st.integers(0, 15),
    spread=st.sampled_from([0.1, 3.0, 500.0]),
    objective=st.sampled_from(OBJECTIVES),
)
def test_utility_equals_reference_bit_for_bit(seed, n, n_labels, n_pairs, spread, objective):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, n_labels, n).astype(np.int32)
    scores = (-spread * rng.random((n, n_labels))).astype(np.float32)
    pairs, tables = random_graph(rng, n, n_labels, n_pairs)
    graph = reference.ReferenceGraph(pairs, tables)
    rows = [[float(s) for s in row] for row in scores]
    expected = reference.utility(labels.tolist(), rows, graph, objective, 50.0)
    assert _core.utility(labels, scores, pairs, tables, objective, 50.0) == expected
    assert math.isfinite(expected)
    fixed = np.where(rng.random(n) < 0.5, labels, -1).astype(np.int32)
    expected = reference.utility(
        labels.tolist(), rows, graph, objective, 50.0, fixed=fixed.tolist()
    )
    assert expected == _core.utility(
        labels, scores, pairs, tables, objective, 50.0, fixed_labels=fixed
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 10), n_labels=st.integers(2, 4))
def test_count_violations_by_brute_force(seed, n, n_labels):
    rng = np.random.default_rng(seed)
    pairs, tables = random_graph(rng, n, n_labels, 12)
    labels = rng.integers(-1, n_labels, n).astype(np.int32)
    expected = 0
    for (i, j), table in zip(pairs, tables, strict=True):
        if labels[i] >= 0 and labels[j] >= 0 and table[labels[i], labels[j]] == 0:
            expected += 1
    assert _core.count_violations(labels, pairs, tables) == expected


def test_mean_and_sum_of_log_probabilities():
    scores = [[-1.0, -2.0], [-3.0, -0.5], [-9.0, -9.0]]
    assert _utility([0, 0, -1], scores, "mean_logprob") == -2.0
    assert _utility([0, 0, -1], scores, "sum_logprob") == -4.0
    assert _utility([0, 0, -1], scores, "sum_logprob", alpha=50.0) == -200.0


def test_log_odds_of_two_labels_is_the_difference():
    assert _utility([0, 1], [[-1.0, -2.5], [-3.0, -0.5]], "mean_logodds") == 2.0


def test_log_odds_of_three_labels_adds_the_others():
    row = [math.log(0.5), math.log(0.3), math.log(0.2)]
    assert _utility([1], [row], "mean_logodds") == pytest.approx(math.log(0.3 / 0.7), abs=1e-6)


def test_calibrated_is_zero_for_a_constant_labelling_with_equal_scores():
    scores = np.log([[0.9, 0.1]] * 5)
    assert _utility([0] * 5, scores, "calibrated") == pytest.approx(0.0, abs=1e-6)


def test_calibrated_is_a_mutual_information():
    scores = np.log([[0.9, 0.1], [0.1, 0.9]])
    assert _utility([0, 1], scores, "calibrated") == pytest.approx(math.log(0.9 / 0.5), abs=1e-6)


def test_calibrated_renormalises_its_marginal():
    # Normalised over a vocabulary, both labels share one hundredth of the mass.
    scores = np.log([[0.008, 0.002], [0.002, 0.008]])
    assert _utility([0, 1], scores, "calibrated") == pytest.approx(math.log(0.008 / 0.5), abs=1e-6)


def test_nothing_labelled_has_utility_zero():
    for objective in OBJECTIVES:
        assert _utility([-1, -1], [[-1.0, -2.0]] * 2, objective) == 0.0


def test_violations_are_subtracted():
    graph = (np.array([[0, 1]], np.int32), equal_table(2)[None])
    plain = _utility([0, 1], [[-1.0, -1.0]] * 2, "mean_logprob")
    assert _utility([0, 1], [[-1.0, -1.0]] * 2, "mean_logprob", graph=graph) == plain - 1.0


@pytest.mark.parametrize(
    ("labels", "scores", "objective", "text"),
    [
        ([0, 2], [[-1.0, -1.0]] * 2, "calibrated", "label of example 1 is 2, outside -1 .. 1"),
        ([0, 1], [[-1.0, -1.0]], "calibrated", r"float32 array \[2, 2\]"),
        ([0, 1], [[-1.0, np.nan]] * 2, "calibrated", "example 0, label 1 is -?nan"),
        ([0, 1], [[-1.0, -1.0]] * 2, "median", "unknown objective 'median'"),
    ],
)
def test_bad_input_is_refused(labels, scores, objective, text):
    with pytest.raises(ValueError, match=text):
        _utility(labels, scores, objective)
