"""Rejecting a candidate from a sample of its leave-one-out scores (an approximation).

With ``sequential_test`` = delta > 0 the examples of a candidate are scored sub-tree by sub-tree in
a random order. After each, the utility of the whole is estimated from those that are scored, and
the candidate is rejected once an upper confidence limit lies below its threshold. Accepted
candidates are always scored whole, so accepted states and their utilities stay exact; what may be
wrong is a rejection, with a probability of about delta under the usual assumptions on means of
samples (compare the sequential tests of Korattikara, Chen and Welling, arXiv 1304.5299).
"""

from __future__ import annotations

import math
import zlib
from statistics import NormalDist
from typing import Any

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.run_store import scored_rows
from icm_fast.types import UNLABELLED, FloatArray, IntArray, ScoreArray

LEAST_SAMPLE = 8
"""Examples that are scored at least: fewer say little about their spread."""

MOST_LOOKS = 8
"""Looks that share the error rate, in equal parts: the test is made at most so often."""


class SequentialTest:
    """The test of one candidate.

    A scored example differs from what it had in the present state by some change; the mean change
    of the sample stands for those that are not scored. So what is tested is only what moves.

    Args:
        labels: The candidate, ``[n]``.
        before: Scores of the present state, ``[n, n_labels]``, NaN where unknown.
        state: Labels of the present state, ``[n]``.
        threshold: A utility below it leads to rejection.
        violations: I(D) of the candidate.
        config: Error rate, objective, alpha, seed.
    """

    def __init__(
        self,
        labels: IntArray,
        before: ScoreArray,
        state: IntArray,
        threshold: float,
        violations: int,
        config: SearchConfig,
    ) -> None:
        self._labels = labels
        self._before = before
        self._state = state
        self._threshold = threshold
        self._violations = violations
        self._config = config
        self._n_looks = 0
        self._n_sampled = 0

    @classmethod
    def of(cls, engine: Any, ask: Any, config: SearchConfig) -> SequentialTest | None:
        """The test of an ask; None where there is none to make."""
        if config.sequential_test == 0.0 or not math.isfinite(ask.threshold) or ask.is_lookup:
            return None
        # Sums compare only between labellings of one size.
        if config.objective == "sum_logprob":
            return None
        if not scored_rows(engine.scores)[ask.labels != UNLABELLED].all():
            return None
        return cls(
            ask.labels,
            engine.scores,
            engine.labels,
            ask.threshold,
            int(engine.ask_violations),
            config,
        )

    def random_order(self) -> FloatArray:
        """A random priority per example, the same one for the same candidate."""
        key = zlib.crc32(np.ascontiguousarray(self._labels, "<i4").tobytes())
        order: FloatArray = np.random.default_rng([self._config.seed, key]).random(
            len(self._labels)
        )
        return order

    def rejects(self, scores: ScoreArray) -> bool:
        """Whether the utility lies below the threshold, to the chosen error rate."""
        labelled = self._labels != UNLABELLED
        sampled = labelled & scored_rows(scores)
        n, m = int(labelled.sum()), int(sampled.sum())
        if m == n:
            return False  # known exactly: the engine decides
        if m < LEAST_SAMPLE:
            return False
        # The look after which nothing new was scored is the same look.
        if m > self._n_sampled:
            self._n_looks, self._n_sampled = self._n_looks + 1, m
        if self._n_looks > MOST_LOOKS:
            return False
        mean, spread = self._predict(scores, labelled, sampled)
        level = 1.0 - self._config.sequential_test / MOST_LOOKS
        # The unscored part is what is uncertain: its mean change against that of the sample.
        error = spread * math.sqrt(1.0 / m + 1.0 / (n - m)) * (n - m) / n
        limit = mean + _student(level, m - 1) * error
        return self._config.alpha * limit - self._violations < self._threshold

    def _predict(
        self, scores: ScoreArray, labelled: IntArray, sampled: IntArray
    ) -> tuple[float, float]:
        """Predicted P(D) and the standard deviation of an example's change."""
        filled = np.where(sampled[:, None], scores, self._before)
        terms = _terms(filled, self._labels, labelled, str(self._config.objective))
        was = _terms(self._before, self._labels, labelled, str(self._config.objective))
        # An example whose own label is proposed moves unlike all others.
        typical = sampled & (self._state == self._labels)
        changes = (terms - was)[typical]
        shift = float(changes.mean()) if len(changes) else 0.0
        spread = float(changes.std(ddof=1)) if len(changes) > 1 else math.inf
        unscored = labelled & ~sampled
        total = float(terms[labelled].sum()) + shift * int(unscored.sum())
        return total / int(labelled.sum()), spread


def _terms(scores: ScoreArray, labels: IntArray, labelled: IntArray, objective: str) -> FloatArray:
    """What each labelled example adds to n P(D), ``[n]``; 0 elsewhere."""
    table = scores.astype(np.float64)
    terms = np.zeros(len(labels))
    rows = np.flatnonzero(labelled)
    own = table[rows, labels[rows]]
    if objective == "mean_logodds":
        chances = np.exp(table[rows])
        others = chances.sum(axis=1) - np.exp(own)
        terms[rows] = own - np.log(np.maximum(others, np.finfo(np.float64).tiny))
        return terms
    if objective == "calibrated":
        chances = np.exp(table[rows] - table[rows].max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        marginal = np.log(np.maximum(chances.mean(axis=0), np.finfo(np.float64).tiny))
        own = own - marginal[labels[rows]]
    terms[rows] = own
    return terms


def _student(level: float, freedom: int) -> float:
    """Quantile of Student's t: the normal one with four terms of its expansion in 1 / freedom.

    Abramowitz and Stegun, 26.7.5.
    """
    x, v = NormalDist().inv_cdf(level), max(freedom, 1)
    return (
        x
        + (x**3 + x) / (4 * v)
        + (5 * x**5 + 16 * x**3 + 3 * x) / (96 * v**2)
        + (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / (384 * v**3)
    )
