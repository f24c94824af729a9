"""From scores to labels, confidence and shares: what must hold whatever the scores are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_fast.labelling.config import LabelConfig
from icm_fast.labelling.decide import kept_labels, measure_scale, row_scores, votes
from icm_fast.labelling.evidence import DECIDED_BY, CoreEvidence, decide
from icm_fast.scoring.posterior import MOST_ROWS, expected_accuracy, posterior, with_shares
from icm_fast.types import Constraint

N = 60
KNOWN, SEARCH, PREDICTION, ABSTAINED = range(4)


def planted(seed=0, n=N, n_labels=3, bias=(3.0, 0.0, -1.0), strength=3.0):
    """Log-probabilities that favour label ``row % n_labels``, and the first label on top."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, n_labels)) + np.array(bias[:n_labels])
    logits[np.arange(n), np.arange(n) % n_labels] += strength
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


TRUTH = np.arange(N, dtype=np.int32) % 3


def chunked(scores, size=17):
    return lambda: (scores[i : i + size] for i in range(0, len(scores), size))


def core(rows, scores, known=None, kept=None):
    rows = np.asarray(rows, np.int32)
    known = np.full(len(rows), -1, np.int32) if known is None else known
    labels = np.where(known >= 0, known, TRUTH[rows]).astype(np.int32)
    kept = np.ones(len(rows), bool) if kept is None else kept
    return CoreEvidence(rows, labels, row_scores(scores[rows], 1), kept)


def decided(known=None, size=17, **settings):
    known = np.full(N, -1, np.int32) if known is None else known
    plain, views = planted(0), [planted(1), planted(2)]
    cores = [core(np.arange(k, N, 7), views[k], known[np.arange(k, N, 7)]) for k in range(2)]
    return decide(
        chunked(plain, size),
        [chunked(view, size) for view in views],
        cores,
        known=known,
        per_row=1,
        config=LabelConfig(**settings),
    )


def test_both_orders_of_a_comparison_count_alike():
    log = np.log
    items = np.array([log([0.2, 0.8]), log([0.4, 0.6])], np.float32)
    better = 0.8 * 0.4 / (0.8 * 0.4 + 0.2 * 0.6)
    assert np.exp(row_scores(items, 2)) == pytest.approx(np.array([[better, 1 - better]]))
    assert np.exp(row_scores(items[::-1], 2)) == pytest.approx(np.array([[1 - better, better]]))


def test_log_probabilities_are_normalised():
    scores = planted()
    assert row_scores(scores - 5, 1) == pytest.approx(row_scores(scores, 1), abs=1e-5)


def test_a_bias_is_taken_off():
    n = 600
    truth = np.arange(n) % 3
    plain = planted(n=n, bias=(4.0, 0.0, 0.0))
    before = (plain.argmax(axis=1) == truth).mean()
    evidence = measure_scale([row_scores(plain, 1)]).evidence(row_scores(plain, 1))
    assert (evidence.argmax(axis=1) == truth).mean() > before + 0.2
    shares = np.bincount(evidence.argmax(axis=1), minlength=3) / n
    assert shares.max() < np.bincount(plain.argmax(axis=1)).max() / n - 0.2
    assert evidence.sum(axis=1) == pytest.approx(np.zeros(n), abs=1e-9)


def test_the_scale_does_not_depend_on_the_chunks():
    scores = row_scores(planted(), 1)
    whole, parts = measure_scale([scores]), measure_scale([scores[:7], scores[7:50], scores[50:]])
    assert parts.bias == pytest.approx(whole.bias)
    assert (parts.size, parts.information) == pytest.approx((whole.size, whole.information))


def test_a_view_that_tells_nothing_counts_almost_nothing():
    same = np.log(np.tile([0.7, 0.2, 0.1], (N, 1)))
    telling = row_scores(planted(), 1)
    nothing = measure_scale([same]).evidence(same)
    assert np.abs(nothing).max() < 0.02
    assert np.abs(measure_scale([telling]).evidence(telling)).mean() > 0.2


@pytest.mark.parametrize("n_labels", [2, 3, 10])
@pytest.mark.parametrize("right", [0.6, 0.8, 0.95])
def test_expected_accuracy_follows_its_formula(n_labels, right):
    n = 10_000
    agreement = right**2 + (1 - right) ** 2 / (n_labels - 1)
    one = np.zeros(n, np.int32)
    other = (np.arange(n) >= round(agreement * n)).astype(np.int32)
    expected = (agreement + right) / 2
    assert expected_accuracy(one, other, n_labels) == pytest.approx(expected, abs=2e-3)


def test_expected_accuracy_stays_between_chance_and_certainty():
    one = np.zeros(10_000, np.int32)
    assert expected_accuracy(one, one, 4) == 0.995
    assert expected_accuracy(one, 1 - one, 4) == pytest.approx(0.26)


def test_few_rows_that_agree_are_no_certainty():
    few = [expected_accuracy(np.zeros(n), np.zeros(n), 2) for n in (1, 4, 64)]
    assert few == sorted(few)
    assert 0.7 < few[0] < few[1] < 0.95 < few[2] < 0.995


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.4, 0.97))
def test_the_mean_of_the_largest_probabilities_is_the_accuracy(seed, accuracy):
    evidence = np.random.default_rng(seed).normal(size=(200, 3))
    found = posterior(evidence, accuracy)
    assert found.probabilities.max(axis=1).mean() == pytest.approx(accuracy, abs=5e-3)
    assert found.probabilities.sum(axis=1) == pytest.approx(np.ones(200), abs=1e-5)
    assert found.labels.tolist() == evidence.argmax(axis=1).tolist()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(0.8, 0.1, 0.1), (0.2, 0.3, 0.5)]))
def test_shares_that_are_given_are_met(seed, shares):
    evidence = np.random.default_rng(seed).normal(size=(300, 3))
    found = posterior(evidence, 0.9, np.array(shares))
    assert found.probabilities.mean(axis=0) == pytest.approx(np.array(shares), abs=5e-3)


def table_of_two(share, n=240, per_row=1, constraints=(), strength=3.0, **settings):
    """A table whose second label has this share, and whether each row has it."""
    rng = np.random.default_rng(3)
    truth = rng.permutation(n) < share * n
    sign = np.where(truth, 1.0, -1.0)

    def view():
        margins = strength * sign + rng.normal(size=n) * 1.5 + 2.0  # the second word is liked
        values = np.stack([np.zeros(n), margins], axis=1)
        if per_row == 2:  # the second prompt of a row says the opposite
            values = np.stack([values, values[:, ::-1]], axis=1).reshape(2 * n, 2)
        return (values - np.logaddexp.reduce(values, axis=1, keepdims=True)).astype(np.float32)

    plain, after = view(), view()
    rows = np.arange(0, n, 7, dtype=np.int32)
    scores = row_scores(after, per_row)[rows]
    one = CoreEvidence(rows, truth[rows].astype(np.int32), scores, np.ones(len(rows), np.bool_))
    found = decide(
        chunked(plain, 16),
        [chunked(after, 16)],
        [one],
        known=np.full(n, -1, np.int32),
        per_row=per_row,
        config=LabelConfig(**settings),
        constraints=constraints,
    )
    return found, truth


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_far_shares_of_two_labels_are_seen(share):
    found, truth = table_of_two(share)
    assert found.shares_from == "estimated"
    assert (found.labels == 1).mean() == pytest.approx(share, abs=0.03)
    assert (found.labels == truth).mean() > 0.97


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_moderate_shares_of_two_labels_count(share):
    found, truth = table_of_two(share, strength=1.8)
    even, _ = table_of_two(share, strength=1.8, shares=(0.5, 0.5))
    assert found.shares_from == "assumed"
    assert (found.labels == truth).mean() > (even.labels == truth).mean() + 0.02


def test_rules_and_both_orders_of_comparisons_keep_two_labels_about_equal():
    free, _ = table_of_two(0.2)
    rule = Constraint(0, 1, ((True, True), (True, False)), "not both")
    bound, _ = table_of_two(0.2, constraints=(rule,))
    ordered, _ = table_of_two(0.2, per_row=2)
    assert free.shares_from == "estimated"
    assert {bound.shares_from, ordered.shares_from} == {"assumed"}
    assert (bound.labels == 1).sum() > (free.labels == 1).sum()


def test_given_shares_reach_the_decision():
    found = decided(shares=(0.6, 0.2, 0.2))
    assert found.shares == pytest.approx(np.array([0.6, 0.2, 0.2]), abs=5e-3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0.1, 0.5, 0.5001, 0.9]), min_size=1), st.floats(0, 1))
def test_the_least_certain_share_loses_its_labels(values, share):
    confidence = np.array(values)
    kept = kept_labels(confidence, share)
    assert (~kept).sum() == round(share * len(values))
    if kept.any() and not kept.all():
        assert confidence[kept].min() >= confidence[~kept].max()


def test_most_rows_are_right_and_say_how_they_came_about():
    found = decided()
    assert (found.labels == TRUTH).mean() > 0.9
    searched = np.unique(np.concatenate([np.arange(0, N, 7), np.arange(1, N, 7)]))
    assert set(np.flatnonzero(found.decided_by == SEARCH)) == set(searched.tolist())
    assert found.counts() == {
        "known": 0,
        "search": len(searched),
        "prediction": N - len(searched),
        "abstained": 0,
    }
    assert sum(found.label_counts()) == N
    assert found.n_views == 3
    assert set(found.votes.tolist()) <= {0, 1, 2, 3}
    assert tuple(found.counts()) == DECIDED_BY


def test_the_decision_does_not_depend_on_the_chunks():
    one, other = decided(size=17), decided(size=N)
    assert one.labels.tolist() == other.labels.tolist()
    assert one.confidence == pytest.approx(other.confidence, abs=1e-6)


@pytest.mark.parametrize("abstain", [0.0, 0.3, 1.0])
def test_known_labels_never_change(abstain):
    known = np.full(N, -1, np.int32)
    known[:20] = (TRUTH[:20] + 1) % 3  # against all evidence
    found = decided(known=known, abstain=abstain)
    assert found.labels[:20].tolist() == known[:20].tolist()
    assert set(found.decided_by[:20].tolist()) == {KNOWN}
    assert set(found.confidence[:20].tolist()) == {1.0}


def test_abstained_rows_keep_their_confidence():
    all_rows, some = decided(), decided(abstain=0.25)
    without = some.decided_by == ABSTAINED
    assert without.sum() == N // 4
    assert set(some.labels[without].tolist()) == {-1}
    assert some.confidence == pytest.approx(all_rows.confidence)
    assert all_rows.confidence[without].max() <= all_rows.confidence[~without].min()


def test_votes_count_the_views_that_say_the_same():
    views = [np.array([0, 1, 1]), np.array([0, 0, 1])]
    assert votes(views, np.array([0, 1, 0])).tolist() == [2, 1, 0]


@pytest.mark.parametrize("n_labels", [2, 3, 9])
def test_what_is_fitted_on_some_rows_holds_for_all_of_very_many(n_labels):
    evidence = np.random.default_rng(3).normal(size=(2 * MOST_ROWS + 7, n_labels))
    evidence -= evidence.mean(axis=1, keepdims=True)
    shares = np.arange(1, n_labels + 1) / np.arange(1, n_labels + 1).sum()
    found = posterior(evidence, 0.8, shares)
    np.testing.assert_allclose(found.shares, shares, atol=1e-3)
    assert found.probabilities.max(axis=1).mean() == pytest.approx(0.8, abs=0.01)
    counts = np.bincount(with_shares(evidence, shares), minlength=n_labels) / len(evidence)
    np.testing.assert_allclose(counts, shares, atol=0.02)
