"""How confidence and accuracy go together, where gold is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from icm_fast.types import UNLABELLED, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class ConfidenceBin:
    """Rows whose confidence lies in an interval.

    Attributes:
        low: Where the interval begins.
        high: Where it ends.
        n: Number of rows.
        confidence: Their mean confidence.
        accuracy: Share of them whose label is the gold one.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Confidence against gold, on the rows that have a label and a gold label.

    Attributes:
        n: Number of such rows.
        accuracy: Share of them whose label is the gold one.
        confidence: Their mean confidence.
        error: Mean distance of confidence and accuracy over the bins, weighted by rows.
        bins: Bins that hold rows, by rising confidence.
        coverage: ``(share of the rows, accuracy on them)``, the most certain rows first; rows of
            equal confidence enter together.
    """

    n: int
    accuracy: float
    confidence: float
    error: float
    bins: tuple[ConfidenceBin, ...]
    coverage: tuple[tuple[float, float], ...]


def reliability(
    labels: IntArray, confidence: FloatArray, gold: IntArray, n_bins: int = 10
) -> Reliability | None:
    """Compare confidence with gold.

    Args:
        labels: ``[n]``, -1 where unlabelled.
        confidence: ``[n]`` probability of each label.
        gold: ``[n]``, -1 where unknown.
        n_bins: Number of intervals of equal width from 0 to 1.

    Returns:
        None if no row has both a label and a gold label.
    """
    rows = np.flatnonzero((labels != UNLABELLED) & (gold != UNLABELLED))
    if not len(rows):
        return None
    right = (labels[rows] == gold[rows]).astype(np.float64)
    sure = np.asarray(confidence, np.float64)[rows]
    place = np.clip((sure * n_bins).astype(np.int64), 0, n_bins - 1)
    bins = tuple(
        ConfidenceBin(
            k / n_bins,
            (k + 1) / n_bins,
            int(inside.sum()),
            float(sure[inside].mean()),
            float(right[inside].mean()),
        )
        for k in range(n_bins)
        if (inside := place == k).any()
    )
    error = sum(b.n * abs(b.confidence - b.accuracy) for b in bins) / len(rows)
    return Reliability(
        len(rows),
        float(right.mean()),
        float(sure.mean()),
        error,
        bins,
        _coverage(sure, right),
    )


def _coverage(sure: FloatArray, right: FloatArray) -> tuple[tuple[float, float], ...]:
    order = np.argsort(-sure, kind="stable")
    ordered = sure[order]
    accuracy = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    return tuple((float((end + 1) / len(order)), float(accuracy[end])) for end in ends)
