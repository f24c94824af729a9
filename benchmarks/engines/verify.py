"""Whether a peer's answers are right; a wrong answer gets no speed-up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LIMITS = {"bfloat16": (5e-2, 3e-1), "float32": (1e-3, 1e-3), "int8": (1e-1, 1.0)}
"""Largest median and maximum of |d log p| from float32 scores, by the peer's precision.

``int8`` is an approximation: it has to be near enough to be one of the same scores.
"""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Differences of a peer's log-probabilities from the reference.

    Attributes:
        correct: Whether both limits hold and every value is a number.
        median: Median of |d log p|.
        maximum: Largest |d log p|.
        limits: The limits of the two.
        signal: Median distance of the reference from its mean over the compared examples: what
            a peer that answers the same everywhere would be off by.
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
    # A comparison with NaN is false, so NaN is never right.
    correct = bool(median <= limits[0] and maximum <= limits[1])
    signal = float(np.median(np.abs(reference - reference.mean(axis=0))))
    return Verdict(correct, median, maximum, limits, signal, len(scores))
