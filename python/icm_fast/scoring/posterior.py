"""From what several views say of rows to probabilities of labels.

A *view* is a way of asking a model: a text alone, or after one set of demonstrations. Evidence is
what remains of log-probabilities when the mean prediction is taken off.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from icm_fast.types import BoolArray, FloatArray, IntArray, ScoreArray

Values = TypeVar("Values", FloatArray, IntArray)

MOST_ROWS = 20_000
"""Rows on which numbers that all rows have in common are fitted."""

_FLOOR = 1e-12
_UNSURE_ROWS = 8
"""Rows that count as much as an agreement half way between chance and certainty."""


def calibrated_evidence(scores: ScoreArray, counts: BoolArray | None = None) -> FloatArray:
    """Normalised log-probabilities less the log of their mean, ``[rows, n_labels]`` float64.

    Args:
        scores: ``[rows, n_labels]`` log-probabilities of one view.
        counts: ``[rows]`` bool, the rows whose mean is taken; all when absent.
    """
    values = scores.astype(np.float64)
    values = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
    averaged = values if counts is None or not counts.any() else values[counts]
    mean = np.maximum(np.exp(averaged).mean(axis=0), _FLOOR)
    evidence: FloatArray = values - np.log(mean)
    return evidence


def view_evidence(scores: ScoreArray, counts: BoolArray | None = None) -> FloatArray:
    """Evidence of a view, on a scale on which views add up, ``[rows, n_labels]`` float64.

    Its root mean square is that of what the view tells: the root of the mutual information of rows
    and predictions. A view that is sure of everything, whatever the row, so counts little.

    Args:
        scores: ``[rows, n_labels]`` log-probabilities of one view.
        counts: ``[rows]`` bool, the rows by which it is judged; all when absent.
    """
    evidence = centred(calibrated_evidence(scores, counts))
    judged = slice(None) if counts is None or not counts.any() else counts
    size = max(float(np.sqrt((evidence[judged] ** 2).mean())), _FLOOR)
    told = np.sqrt(max(mutual_information(scores[judged]), 1e-4))
    weighted: FloatArray = evidence * (told / size)
    return weighted


def mutual_information(scores: ScoreArray) -> float:
    """Mutual information of rows and predictions in nats, of ``[rows, n_labels]`` scores."""
    values = scores.astype(np.float64)
    values = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
    shares = np.exp(values)
    mean = np.maximum(shares.mean(axis=0), _FLOOR)
    return float((shares * values).sum(axis=1).mean() - mean @ np.log(mean))


def centred(values: FloatArray) -> FloatArray:
    """Values without the mean of each row, ``[rows, n_labels]``."""
    without: FloatArray = values - values.mean(axis=1, keepdims=True)
    return without


def own_margins(evidence: FloatArray, labels: IntArray) -> FloatArray:
    """How far each row's label is ahead of the best other one, ``[n]``; negative if behind.

    Args:
        evidence: ``[n, n_labels]``.
        labels: ``[n]`` label indices, none of them -1.
    """
    rows = np.arange(len(labels))
    others = evidence.copy()
    others[rows, labels] = -np.inf
    margins: FloatArray = evidence[rows, labels] - others.max(axis=1)
    return margins


@dataclass(frozen=True, slots=True)
class Posterior:
    """What all views say together.

    Attributes:
        labels: ``[rows]`` int32, the most probable label.
        probabilities: ``[rows, n_labels]`` float32.
        shares: ``[n_labels]`` mean probability of each label.
    """

    labels: IntArray
    probabilities: npt.NDArray[np.float32]
    shares: FloatArray


def posterior(evidence: FloatArray, accuracy: float, shares: FloatArray | None = None) -> Posterior:
    """Probabilities from evidence.

    Their sharpness is found on evenly spaced rows where there are very many.

    Args:
        evidence: ``[rows, n_labels]``.
        accuracy: Expected share of right labels; the mean of the largest probabilities.
        shares: ``[n_labels]`` mean of the probabilities, where it is known.
    """
    low, high = 1e-3, 1e4
    some = evenly_spaced(evidence)
    for _ in range(40):  # the mean of the largest probabilities grows with the sharpness
        middle = float(np.sqrt(low * high))
        values = softmax(middle * some + _offset(some, middle, shares))
        low, high = (middle, high) if _largest(values).mean() < accuracy else (low, middle)
    sharpness = float(np.sqrt(low * high))
    offset = _offset(evidence, sharpness, shares)
    values = softmax(sharpness * evidence + offset)
    return Posterior(
        values.argmax(axis=1).astype(np.int32), values.astype(np.float32), values.mean(axis=0)
    )


def evenly_spaced(values: Values) -> Values:
    """At most :data:`MOST_ROWS` evenly spaced rows: enough for what is one number of all rows."""
    return values[:: max(1, -(-len(values) // MOST_ROWS))]


def _offset(evidence: FloatArray, sharpness: float, shares: FloatArray | None) -> FloatArray:
    """What added to the sharp evidence makes ``shares`` its mean; nothing where there are none.

    Returns:
        ``[n_labels]``.
    """
    if shares is None:
        return np.zeros(evidence.shape[1])
    some = evenly_spaced(evidence)
    offset = _balanced(sharpness * some, np.log(shares), shares, 100)
    if len(some) < len(evidence):  # it is near already
        offset = _balanced(sharpness * evidence, offset, shares, 5)
    return offset


def _balanced(values: FloatArray, offset: FloatArray, shares: FloatArray, most: int) -> FloatArray:
    for _ in range(most):
        mean = softmax(values + offset).mean(axis=0)
        step = np.log(shares) - np.log(np.maximum(mean, _FLOOR))
        offset = offset + step
        if np.abs(step).max() < 1e-4:
            break
    return offset


def softmax(values: FloatArray) -> FloatArray:
    """Probabilities of log-probabilities up to a constant of each row, ``[rows, n_labels]``."""
    exp = np.exp(values - _largest(values)[:, None])
    # Of few columns each is added whole: NumPy is slow where there is little to add in a row.
    total = sum(exp.T[1:], start=exp[:, 0]) if exp.shape[1] < 8 else exp.sum(axis=1)
    probabilities: FloatArray = exp / np.asarray(total)[:, None]
    return probabilities


def _largest(values: FloatArray) -> FloatArray:
    """The largest value of each row, ``[rows]``."""
    largest: FloatArray = reduce(np.maximum, values.T)
    return largest


def with_shares(evidence: FloatArray, shares: FloatArray | None) -> IntArray:
    """The label of each row, ``[rows]`` int32; about ``shares`` of each where they are given."""
    if shares is None:
        return np.asarray(evidence.argmax(axis=1), np.int32)
    values = evidence + share_offset(evidence, shares)
    return np.asarray(values.argmax(axis=1), np.int32)


def share_offset(evidence: FloatArray, shares: FloatArray) -> FloatArray:
    """What added to the evidence gives about ``shares`` of the rows each label, ``[n_labels]``.

    Args:
        evidence: ``[rows, n_labels]``.
        shares: ``[n_labels]``, all above 0.
    """
    size = max(float(np.sqrt((evidence**2).mean())), 1e-9)
    # Sharp, so that the shares of the probabilities are those of the labels.
    sharpness = 8.0 / size
    return _offset(evidence, sharpness, shares) / sharpness


def expected_accuracy(one: IntArray, other: IntArray, n_labels: int) -> float:
    """How often labels from two views together are right, from how often the views agree.

    If both were right equally often and erred independently, their agreement a would give the
    share p of right labels by a = p^2 + (1 - p)^2 / (n_labels - 1). Views of one model err
    together, so p is too high; a itself is too low, and the mean of both comes close (dev/LOG.md).

    Args:
        one: ``[rows]`` labels of one view.
        other: ``[rows]`` labels of the other.
        n_labels: Number of labels.
    """
    chance = 1.0 / n_labels
    unknown = _UNSURE_ROWS * (1.0 + chance) / 2.0
    agreement = (float((one == other).sum()) + unknown) / (len(one) + _UNSURE_ROWS)
    rest = 1.0 / (n_labels - 1)
    root = np.sqrt(max(0.0, rest**2 - (1.0 + rest) * (rest - agreement)))
    independent = (rest + float(root)) / (1.0 + rest)
    return float(np.clip((agreement + independent) / 2, chance + 0.01, 0.995))
