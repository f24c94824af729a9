"""Shares of three and more labels from the evidence of rows: simulated, with known truth."""

from __future__ import annotations

import numpy as np
import pytest

from icm_fast.labelling.config import LabelConfig
from icm_fast.labelling.evidence import CoreEvidence, decide
from icm_fast.scoring.mixture import FEWEST_ROWS, believed_mixture, fit_mixture

UNEQUAL = (0.5, 0.25, 0.13, 0.07, 0.05)


def rows_of(shares, n=800, seed=0, signal=3.0):
    """True labels, and two views: log-odds of the labels with noise, each with a bias."""
    rng = np.random.default_rng(seed)
    n_labels = len(shares)
    truth = rng.choice(n_labels, n, p=shares)
    centres = signal * (np.eye(n_labels) + 0.25 * rng.normal(size=(n_labels, n_labels)))
    common = rng.normal(size=(n, n_labels))
    views = []
    for _ in range(2):
        noise = 0.8 * common + 0.6 * rng.normal(size=(n, n_labels))
        logits = centres[truth] + noise + rng.normal(size=n_labels)
        views.append(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    return truth, views


def evidence_of(view):
    """Without the mean of all rows, as the scale of a view takes it off."""
    bias = np.log(np.exp(view).mean(axis=0))
    evidence = view - bias
    return evidence - evidence.mean(axis=1, keepdims=True)


def parts(shares, **options):
    truth, views = rows_of(shares, **options)
    alone, cored = (evidence_of(view) for view in views)
    return truth, alone + cored, alone, cored


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_rare_labels_are_not_invented(seed):
    truth, together, alone, cored = parts(UNEQUAL, seed=seed)
    believed = believed_mixture(together, alone, cored)
    assert believed is not None
    found = believed.mixture.labels(together)
    before = (together.argmax(axis=1) == truth).mean()
    assert (found == truth).mean() > before + 0.04
    shares = np.bincount(found, minlength=5) / len(truth)
    assert np.abs(shares - np.bincount(truth, minlength=5) / len(truth)).max() < 0.06


@pytest.mark.parametrize("seed", range(4))
def test_equal_shares_lose_nothing(seed):
    truth, together, alone, cored = parts((0.25,) * 4, seed=seed)
    believed = believed_mixture(together, alone, cored)
    found = together.argmax(axis=1) if believed is None else believed.mixture.labels(together)
    assert (found == truth).mean() > (together.argmax(axis=1) == truth).mean() - 0.005


@pytest.mark.parametrize("seed", range(3))
def test_the_likelihood_tells_unequal_shares_from_equal_ones(seed):
    for shares, unequal in ((UNEQUAL, True), ((0.2,) * 5, False)):
        _, together, alone, cored = parts(shares, seed=seed)
        assert believed_mixture(together, alone, cored) is not None
        found = believed_mixture(together, alone, cored, unequal=6.0)
        assert (found is not None) is unequal


def test_a_fit_with_equal_shares_has_them():
    _, together, _, _ = parts(UNEQUAL)
    free, equal = (fit_mixture(together, 1.0, equal_shares=same) for same in (False, True))
    assert np.exp(equal.log_shares) == pytest.approx(0.2)
    assert np.exp(free.log_shares).max() > 0.3
    assert free.likelihood > equal.likelihood + 6.0


def test_views_that_contradict_each_other_are_not_believed():
    _, _, alone, _ = parts(UNEQUAL, seed=1)
    _, _, other, _ = parts(UNEQUAL, seed=2)
    assert believed_mixture(alone + other, alone, other) is None


def test_rows_that_contexts_sway_are_read_by_the_rows_alone():
    """After the cores the rows lie where other words would have them."""
    truth, _, alone, cored = parts((0.55, 0.3, 0.15), seed=3)
    swayed = cored + np.where(truth[:, None] == 0, np.array([-2.0, 1.5, 0.5]), 0.0)
    by_words, anchored = fit_mixture(swayed, 1.0), believed_mixture(alone + swayed, alone, swayed)
    assert anchored is not None
    assert (by_words.labels(swayed) == truth).mean() < 0.7
    assert (anchored.view_labels(swayed) == truth).mean() > 0.85
    assert (anchored.mixture.labels(alone + swayed) == truth).mean() > 0.9


def test_noise_is_not_believed():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 500, 4))
    assert believed_mixture(noise.sum(axis=0), *noise) is None


@pytest.mark.parametrize(
    ("shares", "n"), [((0.8, 0.2), 800), (UNEQUAL, FEWEST_ROWS - 1), ((0.125,) * 8, 150)]
)
def test_two_labels_and_few_rows_are_left_alone(shares, n):
    _, together, alone, cored = parts(shares, n=n)
    assert believed_mixture(together, alone, cored) is None


def test_the_order_of_the_labels_does_not_matter():
    _, together, _, _ = parts(UNEQUAL)
    order = np.array([3, 0, 4, 1, 2])
    one = fit_mixture(together, 0.3).labels(together)
    other = fit_mixture(together[:, order], 0.3).labels(together[:, order])
    np.testing.assert_array_equal(order[other], one)


def test_a_label_that_no_row_has_is_survived():
    _, together, _, _ = parts((0.4, 0.3, 0.3))
    together = np.column_stack([together, np.full(len(together), -50.0)])
    together -= together.mean(axis=1, keepdims=True)
    found = fit_mixture(together, 1.0).labels(together)
    assert np.isfinite(fit_mixture(together, 0.3).evidence(together)).all()
    assert (found == 3).mean() < 0.02


def test_many_rows_are_fitted_by_some_and_all_are_judged():
    truth, together, _, _ = parts(UNEQUAL, n=50_000)
    found = fit_mixture(together, 0.3).labels(together)
    assert found.shape == truth.shape
    assert (found == truth).mean() > (together.argmax(axis=1) == truth).mean() + 0.04


def decided(**settings):
    truth, views = rows_of(UNEQUAL)
    nothing = np.zeros(0, np.int32)
    core = CoreEvidence(nothing, nothing, np.zeros((0, 5)))
    plain, after = (view.astype(np.float32) for view in views)
    return truth, decide(
        lambda: [plain],
        [lambda: [after]],
        [core],
        known=np.full(len(truth), -1, np.int32),
        per_row=1,
        config=LabelConfig(**settings),
    )


def test_a_labelling_uses_it_and_says_so():
    truth, found = decided()
    assert found.shares_from == "estimated"
    right = found.labels == truth
    assert right.mean() > 0.75
    assert found.confidence.mean() == pytest.approx(right.mean(), abs=0.15)
    assert found.votes.max() == found.n_views == 2


def test_given_shares_come_first():
    _, found = decided(shares=(0.2,) * 5)
    assert found.shares_from == "given"
    assert found.shares == pytest.approx(np.full(5, 0.2), abs=5e-3)
