"""A scorer of the user's, lifted to what a search needs.

The only place that looks at which methods a scorer has.
"""

from __future__ import annotations

from typing import Protocol

from icm_fast.scoring.checks import checked
from icm_fast.scoring.protocol import Enough, Scored, SearchScorer, SimpleScorer, TextReading
from icm_fast.types import BoolArray, Dataset, FloatArray, IntArray


class LiftedScorer(SearchScorer, TextReading, Protocol):
    """All that a search uses."""


def lift(scorer: SimpleScorer, dataset: Dataset, texts: TextReading | None = None) -> LiftedScorer:
    """Return a scorer with all that a search needs; what ``scorer`` lacks is made of its `score`.

    Args:
        scorer: Has at least ``score(labels, queries=None)``.
        dataset: What it scores.
        texts: Scores texts after labels; the scorer itself when absent.
    """
    return _Lifted(scorer, dataset, texts)


def fingerprint_of(scorer: SimpleScorer, default: str) -> str:
    """The scorer's own fingerprint, or ``default`` where it has none."""
    return str(getattr(scorer, "fingerprint", default))


def reads_texts(scorer: SimpleScorer) -> bool:
    """Whether a scorer also says how probable texts are after labels."""
    return hasattr(scorer, "score_texts")


class _Lifted:
    """Passes on what the scorer can do and scores whole labellings where it can't."""

    def __init__(self, scorer: SimpleScorer, dataset: Dataset, texts: TextReading | None) -> None:
        self._scorer = scorer
        self._dataset = dataset
        self._score_rows = getattr(scorer, "score_rows", None)
        self._score_canonical = getattr(scorer, "score_canonical", scorer.score)
        self._visit = getattr(scorer, "visit", None)
        self._score_texts = getattr(texts or scorer, "score_texts", None)
        #: How a model of this process is forwarded; None for scorers that do not say.
        self.path: object = getattr(scorer, "path", None)

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score the queried examples (all by default)."""
        # A scorer for searches alone may take the labels only.
        if queries is None:
            return self._scorer.score(labels)
        return self._scorer.score(labels, queries)

    def score_rows(
        self,
        labels: IntArray,
        rows: BoolArray,
        *,
        enough: Enough | None = None,
        priority: FloatArray | None = None,
    ) -> Scored:
        """Score the examples ``rows``, or all where the scorer knows no rows."""
        if self._score_rows is None:
            # Checked whole: a NaN of any example says that its other scores are wrong, too.
            return checked(self._dataset, self._scorer.score(labels))
        scored: Scored = self._score_rows(labels, rows, enough=enough, priority=priority)
        return scored

    def score_canonical(self, labels: IntArray) -> Scored:
        """Score all examples under contexts that depend on ``labels`` alone."""
        scored: Scored = self._score_canonical(labels)
        return scored

    def score_texts(self, labels: IntArray) -> Scored:
        """Score texts after labels; only for scorers that :func:`reads_texts`."""
        assert self._score_texts is not None
        scored: Scored = self._score_texts(labels)
        return scored

    def visit(self, labels: IntArray) -> None:
        """Pass a visit on to scorers that want to know."""
        if self._visit is not None:
            self._visit(labels)
