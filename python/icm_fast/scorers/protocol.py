"""What every scorer offers: one labelling in, leave-one-out log-probabilities out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from icm_fast.leave_one_out import LeaveOneOutPlan
from icm_fast.types import IntArray, ScoreArray


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of one labelling.

    Attributes:
        scores: ``[n, n_labels]`` float32, natural log; NaN rows where not queried.
        n_tokens: Tokens forwarded for it.
    """

    scores: ScoreArray
    n_tokens: int


class Scorer(Protocol):
    """Scores labellings of one data set with one model."""

    def score(self, labels: IntArray, queries: npt.NDArray[np.bool_] | None = None) -> Scored:
        """Score the queried examples (all by default) under ``labels``, ``[n]``."""

    def predict_tokens(self, labels: IntArray, queries: npt.NDArray[np.bool_] | None = None) -> int:
        """Tokens that :meth:`score` would forward."""


class PlannedScorer(Scorer, Protocol):
    """A scorer that can show its plan."""

    def plan(
        self, labels: IntArray, queries: npt.NDArray[np.bool_] | None = None
    ) -> LeaveOneOutPlan:
        """Context orders, token ids and segments for ``labels``."""
