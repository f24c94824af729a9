"""From the scores under several contexts to labels, confidence and shares.

Each context (none, and each core) is a *view*. A view's log-probabilities prefer some label words
whatever the row says. That bias, the mean prediction, is taken off; what remains is evidence. The
evidence of a view is put on a scale on which it counts by what the view tells about the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from icm_fast.types import FloatArray, IntArray, ScoreArray

Values = TypeVar("Values", FloatArray, IntArray)

MOST_ROWS = 20_000
"""Rows on which numbers that all rows have in common are fitted."""

_FLOOR = 1e-12
_UNSURE_ROWS = 8
"""Rows that count as much as an agreement half way between chance and certainty."""
_FEW_ROWS = 4
"""Rows that count as much as the assumption that there is no bias."""


def row_scores(scores: ScoreArray, per_row: int) -> FloatArray:
    """Normalised log-probabilities of the labels of each row, ``[rows, n_labels]`` float64.

    Args:
        scores: ``[items, n_labels]`` log-probabilities of prompts.
        per_row: Prompts of a row. Of two, the second exchanges the two texts of a comparison, and
            each of its labels says the same as the other label of the first one.
    """
    values = scores.astype(np.float64)
    if per_row == 2:
        false, true = values[:, 0], values[:, 1]
        # The first text is better: the first claim is true and the second one false.
        values = np.stack([true[0::2] + false[1::2], false[0::2] + true[1::2]], axis=1)
    normalised: FloatArray = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
    return normalised


@dataclass(frozen=True, slots=True)
class Scale:
    """How the scores of one view become evidence.

    Attributes:
        bias: ``[n_labels]`` log of the mean prediction, less where there are few rows.
        size: Root mean square of what remains without it.
        information: Mutual information of texts and predictions in nats.
    """

    bias: FloatArray
    size: float
    information: float

    @property
    def weight(self) -> float:
        """Root mean square of the evidence: a view that tells little counts little."""
        return float(np.sqrt(max(self.information, 1e-4)))

    def evidence(self, scores: FloatArray) -> FloatArray:
        """Evidence of normalised log-probabilities, ``[rows, n_labels]``; each row adds up to 0."""
        values: FloatArray = centred(scores - self.bias) * (self.weight / self.size)
        return values


def measure_scale(chunks: Iterable[FloatArray]) -> Scale:
    """The scale of a view, in one pass.

    Args:
        chunks: Normalised log-probabilities, ``[rows, n_labels]`` each.
    """
    n = 0
    mean: FloatArray | float = 0.0
    sums: FloatArray | float = 0.0
    squares = negative_entropy = 0.0
    for chunk in chunks:
        around, predictions = centred(chunk), np.exp(chunk)
        mean = mean + predictions.sum(axis=0)
        sums = sums + around.sum(axis=0)
        squares += float((around**2).sum())
        negative_entropy += float((predictions * chunk).sum())
        n += len(chunk)
    share = np.maximum(np.asarray(mean) / n, _FLOOR)
    # The mean of a few rows says more about these rows than about the words.
    bias = np.log(share) * (n / (n + _FEW_ROWS))
    off = bias - bias.mean()
    rest = squares - 2.0 * float(off @ np.asarray(sums)) + n * float(off @ off)
    size = float(np.sqrt(max(rest, 0.0) / (n * len(off))))
    information = negative_entropy / n - float(share @ np.log(share))
    return Scale(bias, max(size, 1e-6), information)


def centred(values: FloatArray) -> FloatArray:
    """Values without the mean of each row, ``[rows, n_labels]``."""
    without: FloatArray = values - values.mean(axis=1, keepdims=True)
    return without


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
    size = max(float(np.sqrt((evidence**2).mean())), 1e-9)
    # Sharp, so that the shares of the probabilities are those of the labels.
    sharpness = 8.0 / size
    values = sharpness * evidence + _offset(evidence, sharpness, shares)
    return np.asarray(values.argmax(axis=1), np.int32)


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


def kept_labels(confidence: FloatArray, abstain: float) -> npt.NDArray[np.bool_]:
    """Rows that keep a label when the least certain share stays without, ``[rows]`` bool.

    Of equal ones the later rows lose theirs first.
    """
    n_without = round(abstain * len(confidence))
    order = np.argsort(-confidence, kind="stable")
    kept = np.ones(len(confidence), np.bool_)
    kept[order[len(confidence) - n_without :]] = False
    return kept


def votes(predictions: Sequence[IntArray], labels: IntArray) -> IntArray:
    """How many views alone would give each row its label, ``[rows]`` int32."""
    counts: IntArray = sum(
        ((view == labels).astype(np.int32) for view in predictions),
        start=np.zeros(len(labels), np.int32),
    )
    return counts
