"""What scorers share whose contexts depend on nothing but the labels that are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod

from icm_fast.scoring.protocol import Scored
from icm_fast.types import BoolArray, IntArray


class ScorerOfLabels(ABC):
    """The methods of :class:`~icm_fast.scoring.protocol.SearchScorer` that follow from `score`."""

    @abstractmethod
    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score the queried examples (all by default) under ``labels``, ``[n]``."""

    def score_canonical(self, labels: IntArray) -> Scored:
        """Score all examples; contexts depend on nothing but ``labels`` here."""
        return self.score(labels)

    def visit(self, labels: IntArray) -> None:  # noqa: B027 - a default, few override it
        """Do nothing: contexts do not depend on other labellings."""
