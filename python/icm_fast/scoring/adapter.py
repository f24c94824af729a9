"""A scorer of the user's, lifted to what a search needs.

The only place that looks at which methods a scorer has.
"""

from __future__ import annotations

from icm_fast.scoring.checks import checked
from icm_fast.scoring.protocol import Enough, Scored, SearchScorer, SimpleScorer
from icm_fast.types import BoolArray, Dataset, FloatArray, IntArray


def lift(scorer: SimpleScorer, dataset: Dataset) -> SearchScorer:
    """Return a scorer with all that a search needs; what ``scorer`` lacks is made of its `score`.

    Args:
        scorer: Has at least ``score(labels, queries=None)``.
        dataset: What it scores.
    """
    return _Lifted(scorer, dataset)


def fingerprint_of(scorer: SimpleScorer, default: str) -> str:
    """The scorer's own fingerprint, or ``default`` where it has none."""
    return str(getattr(scorer, "fingerprint", default))


class _Lifted:
    """Passes on what the scorer can do and scores whole labellings where it can't."""

    def __init__(self, scorer: SimpleScorer, dataset: Dataset) -> None:
        self._scorer = scorer
        self._dataset = dataset
        self._score_rows = getattr(scorer, "score_rows", None)
        self._score_canonical = getattr(scorer, "score_canonical", scorer.score)
        self._visit = getattr(scorer, "visit", None)
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

    def visit(self, labels: IntArray) -> None:
        """Pass a visit on to scorers that want to know."""
        if self._visit is not None:
            self._visit(labels)
