"""What the search needs of an engine, whether it is one annealer or several side by side."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from icm_fast.scoring.elsewhere import ModelElsewhere

if TYPE_CHECKING:
    from icm_fast._core import Ask
    from icm_fast.config import SearchConfig
    from icm_fast.engine.result import SearchResult
    from icm_fast.tasks.source import TaskSource
    from icm_fast.tracking import TrackLike
    from icm_fast.types import Dataset, IntArray, Reporter, ScoreArray


class SearchesElsewhere(ModelElsewhere):
    """A model that runs whole searches where it is held, and keeps here what they score."""

    @abstractmethod
    def search(
        self,
        dataset: Dataset,
        *,
        config: SearchConfig,
        output_dir: str | os.PathLike[str] | None,
        progress: Reporter | None,
        source: TaskSource | None,
        track: TrackLike,
    ) -> SearchResult:
        """Same as :func:`icm_fast.engine.search.search`, with the same files."""


class SearchEngine(Protocol):
    """An ask/tell machine: it asks for scores, is told them, and decides.

    Its decisions are a pure function of its settings and of the scores that it is told.
    """

    def ask(self) -> Ask | None:
        """Return the labelling to score next; None when the search is over."""

    def tell(self, scores: ScoreArray) -> None:
        """Answer the last ask with log-probabilities, ``[n, n_labels]``, NaN where not needed."""

    def take_events(self) -> Sequence[Mapping[str, object]]:
        """Return the decisions since the last call, oldest first, ready for JSON."""

    def rejects(self, scores: ScoreArray) -> bool:
        """Whether these scores, NaN where unknown, suffice to reject the candidate."""

    def stop(self, reason: str) -> None:
        """End the search; at most scores that the result lacks are requested afterwards."""

    @property
    def may_reject(self) -> bool:
        """Whether :meth:`rejects` can hold for the present ask."""

    @property
    def labels(self) -> IntArray:
        """Labels ``[n]`` of the current state."""

    @property
    def scores(self) -> ScoreArray:
        """Scores ``[n, n_labels]`` of the current state."""

    @property
    def utility(self) -> float:
        """Utility of the current state."""

    @property
    def temperature(self) -> float:
        """Temperature of the current iteration."""

    @property
    def iteration(self) -> int:
        """Search steps so far, null draws included."""

    @property
    def n_labelled(self) -> int:
        """Number of labelled examples."""

    @property
    def n_accepted(self) -> int:
        """Accepted moves that changed a label."""

    @property
    def reason(self) -> str:
        """Why the search ended; empty while it runs."""

    @property
    def result_labels(self) -> IntArray:
        """Labels ``[n]`` of the result."""

    @property
    def result_scores(self) -> ScoreArray:
        """Scores ``[n, n_labels]`` of the result."""

    @property
    def result_utility(self) -> float:
        """Utility of the result."""
