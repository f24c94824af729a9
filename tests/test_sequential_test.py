"""Rejections from a sample: rare errors, exact acceptances, fewer scores."""

import json
import zlib

import numpy as np
import pytest

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.sequential_test import SequentialTest, _student
from run_fakes import FakeScored, toy_dataset

N = 64
OBJECTIVES = ["mean_logprob", "mean_logodds", "calibrated"]


def scores_of(rng, quality):
    """Two-label log-probabilities; ``quality`` is the mean log-odds of label 0."""
    odds = rng.normal(quality, 1.0, N)
    table = np.stack([-np.logaddexp(0, -odds), -np.logaddexp(0, odds)], axis=1)
    return table.astype(np.float32)


def utility(labels, scores, objective):
    pairs, tables = np.zeros((0, 2), np.int32), np.zeros((0, 2, 2), np.uint8)
    return icm_fast._core.utility(labels, scores, pairs, tables, objective, 50.0)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_false_rejections_are_rarer_than_promised(objective):
    """Candidates exactly at their threshold are acceptable: a rejection of one is an error."""
    delta, wrong, early, n_trials = 0.1, 0, 0, 400
    config = SearchConfig(sequential_test=delta, objective=objective)
    for seed in range(n_trials):
        rng = np.random.default_rng(seed)
        labels = (rng.random(N) < 0.4).astype(np.int32)
        before = scores_of(rng, 0.5)
        shift = rng.normal(0, 0.3, (N, 1)) * np.array([1.0, -1.0]) + before
        after = (shift - np.logaddexp.reduce(shift, axis=1, keepdims=True)).astype(np.float32)
        exact = utility(labels, after, objective)
        for threshold, acceptable in ((exact, True), (exact + 25.0, False)):
            test = SequentialTest(labels, before, labels, threshold, 0, config)
            order = np.argsort(test.random_order())
            rejected = False
            for m in range(8, N, 8):
                seen = np.full((N, 2), np.nan, np.float32)
                seen[order[:m]] = after[order[:m]]
                if test.rejects(seen):
                    rejected = True
                    break
            wrong += rejected and acceptable
            early += rejected and not acceptable
    assert wrong / n_trials <= delta
    assert early / n_trials > 0.9


def test_it_says_nothing_from_few_or_all_scores():
    rng = np.random.default_rng(0)
    labels, before = np.zeros(N, np.int32), scores_of(rng, 0.0)
    config = SearchConfig(sequential_test=0.1)
    test = SequentialTest(labels, before, labels, 1e9, 0, config)
    seen = np.full((N, 2), np.nan, np.float32)
    seen[:7] = before[:7]
    assert not test.rejects(seen)
    assert not test.rejects(before)
    seen[:30] = before[:30]
    assert test.rejects(seen)


@pytest.mark.parametrize(
    ("level", "freedom", "expected"), [(0.975, 7, 2.3646), (0.99, 10, 2.7638), (0.995, 30, 2.7500)]
)
def test_students_quantile(level, freedom, expected):
    assert _student(level, freedom) == pytest.approx(expected, rel=0.01)


class Staged:
    """Scores eight examples at a time."""

    fingerprint = "staged"

    def __init__(self):
        self.n_rows = 0
        rng = np.random.default_rng(0)
        self.hidden, self.noise = rng.integers(0, 2, N), rng.normal(0, 1.5, N)

    def whole(self, labels):
        shown = labels >= 0
        trust = (2.0 * (labels[shown] == self.hidden[shown]).mean() - 1.0) if shown.any() else 0.1
        # What only this labelling says: it makes some changes for the better look worse.
        rng = np.random.default_rng(zlib.crc32(np.asarray(labels, "<i4").tobytes()))
        odds = trust * (3.0 + self.noise) * np.where(self.hidden == 0, 1.0, -1.0)
        odds += rng.normal(0, 0.3) + rng.normal(0, 0.2, N)
        return np.stack([-np.logaddexp(0, -odds), -np.logaddexp(0, odds)], axis=1).astype(
            np.float32
        )

    def score_rows(self, labels, rows, *, enough=None, priority=None):
        order = np.flatnonzero(rows)
        if priority is not None:
            order = order[np.argsort(priority[order], kind="stable")]
        scores = np.full((N, 2), np.nan, np.float32)
        for start in range(0, len(order), 8):
            part = order[start : start + 8]
            scores[part] = self.whole(labels)[part]
            self.n_rows += len(part)
            if enough is not None and start + 8 < len(order) and enough(scores):
                break
        return FakeScored(scores, int(np.isfinite(scores[:, 0]).sum()))

    def score(self, labels, queries=None):
        return self.score_rows(labels, np.ones(N, np.bool_))


def search(folder, **settings):
    scorer = Staged()
    config = SearchConfig(
        preset="paper",
        objective="mean_logodds",
        n_initial=N,
        max_iterations=400,
        initial_temperature=0.01,
        seed=1,
        **settings,
    )
    result = icm_fast.search(
        toy_dataset(N), model="x", config=config, scorer=scorer, output_dir=folder
    )
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return result, events, scorer.n_rows


def test_a_search_scores_less_and_accepts_only_what_it_has_scored(tmp_path):
    exact, _, n_exact = search(tmp_path / "exact")
    tested, events, n_tested = search(tmp_path / "tested", sequential_test=0.05)
    abandoned = [event for event in events if event.get("abandoned")]
    assert abandoned
    assert not any(event["accepted"] for event in abandoned)
    assert n_tested < n_exact
    assert np.isfinite(tested.scores).all()
    assert tested.utility == pytest.approx(exact.utility, rel=0.5)
    again, events_again, n_rows = search(tmp_path / "tested", sequential_test=0.05)
    assert (n_rows, events_again) == (0, events)
    assert np.array_equal(again.labels, tested.labels)


def test_the_error_rate_has_a_range():
    with pytest.raises(InputError, match="sequential_test"):
        SearchConfig(sequential_test=0.9)
