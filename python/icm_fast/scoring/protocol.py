"""What every scorer offers: one labelling in, leave-one-out log-probabilities out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from icm_fast.plan.leave_one_out import LeaveOneOutPlan
from icm_fast.types import BoolArray, FloatArray, IntArray, ScoreArray


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

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score the queried examples (all by default) under ``labels``, ``[n]``."""

    def predict_tokens(self, labels: IntArray, queries: BoolArray | None = None) -> int:
        """Tokens that :meth:`score` would forward."""


Enough = Callable[[ScoreArray], bool]
"""Whether scores ``[n, n_labels]``, NaN where not scored yet, settle what they are needed for."""


class RowScorer(Protocol):
    """A scorer that can score a part of a labelling's examples, and stop in between.

    A row is the same, bit for bit, whichever others are scored with it.
    """

    def score_rows(
        self,
        labels: IntArray,
        rows: BoolArray,
        *,
        enough: Enough | None = None,
        priority: FloatArray | None = None,
    ) -> Scored:
        """Score the examples ``rows``, ``[n]`` bool, as if all were scored.

        Args:
            labels: The labelling, ``[n]``.
            rows: Examples to score; NaN in all other rows.
            enough: Asked from time to time; once it holds, the remaining rows stay NaN.
            priority: ``[n]``; examples with a smaller value come first, as far as that is free.
        """


class PlannedScorer(Scorer, RowScorer, Protocol):
    """A scorer that can show its plan."""

    def plan(self, labels: IntArray, queries: BoolArray | None = None) -> LeaveOneOutPlan:
        """Context orders, token ids and segments for ``labels``."""
