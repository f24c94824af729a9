"""Whether a peer's answers are right; no speed-up is reported for wrong ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LIMITS = {"bfloat16": (5e-2, 3e-1), "float32": (1e-3, 1e-3), "int8": (1e-1, 1.0)}
"""Largest median and maximum of |d log p| from float32 scores, by the peer's precision.

``int8`` is an approximation, which only has to be close to the same scores.
"""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Differences of a peer's log-probabilities from the reference.

    Attributes:
        correct: Whether both limits hold and every value is a number.
        median: Median of |d log p|.
        maximum: Largest |d log p|.
        limits: Limits of the median and the maximum.
        signal: Median distance of the reference from its mean over the compared examples: the error
            of a peer that gives the same answer everywhere.
        n_compared: Prompts compared.
    """

    correct: bool
    median: float
    maximum: float
    limits: tuple[float, float]
    signal: float
    n_compared: int

    @property
    def tells_apart(self) -> bool:
        """Whether a peer that ignores the contexts would have failed."""
        return self.signal > self.limits[0]


def compare(scores: Scores, reference: Scores, precision: str) -> Verdict:
    """Judge ``scores`` against ``reference``, both ``[n_compared, n_labels]`` log-probabilities."""
    if scores.shape != reference.shape or not len(scores):
        raise ValueError(f"cannot compare shapes {scores.shape} and {reference.shape}")
    difference = np.abs(scores - reference)
    median, maximum = float(np.median(difference)), float(difference.max())
    limits = LIMITS[precision]
    # Comparisons with NaN are false, so NaN is never correct.
    correct = bool(median <= limits[0] and maximum <= limits[1])
    signal = float(np.median(np.abs(reference - reference.mean(axis=0))))
    return Verdict(correct, median, maximum, limits, signal, len(scores))
