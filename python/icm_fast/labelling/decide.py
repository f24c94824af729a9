"""From the scores under several contexts to labels, confidence and shares.

Each context (none, and each core) is a *view*. A view's log-probabilities prefer some label words
whatever the row says. That bias, the mean prediction, is taken off; what remains is evidence. The
evidence of a view is put on a scale on which it counts by what the view tells about the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from icm_fast.scoring.posterior import centred
from icm_fast.types import FloatArray, IntArray, ScoreArray

_FLOOR = 1e-12
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
