"""Answers to the engine: from the store, or from the model and then stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.engine.protocol import SearchEngine
from icm_fast.runs.score_log import ScoredLabelling
from icm_fast.runs.store import MemoryStore, scored_rows
from icm_fast.scoring.lazy import LazyScorer
from icm_fast.scoring.protocol import Enough, Scored
from icm_fast.types import UNLABELLED, BoolArray, FloatArray, IntArray, ScoreArray

if TYPE_CHECKING:
    from icm_fast._core import Ask


def answer(
    engine: SearchEngine, ask: Ask, store: MemoryStore, scorer: LazyScorer, config: SearchConfig
) -> ScoreArray:
    """Scores for an ask, ``[n, n_labels]``; NaN rows where they are not needed.

    Only rows that the ask needs and that are not known yet are scored; scoring stops once the known
    scores suffice to reject the candidate.
    """

    def suffices(scores: ScoreArray) -> bool:
        missing = ask.rows & ~scored_rows(scores)
        return not missing.any() or engine.rejects(scores)

    scorer.visit(ask.labels)
    known = store.lookup(ask.labels, suffices)
    if known is None:
        store.check_model(scorer.identity())
        may_stop = config.early_rejection and engine.may_reject
        scored = scorer.score(
            ask.labels,
            ask.rows & ~store.known_rows(ask.labels),
            enough=_with_known(store, ask.labels, engine.rejects) if may_stop else None,
            priority=_priority(engine, ask) if may_stop else None,
        )
        store.record(_labelling(ask.labels, scored))
        known = store.lookup(ask.labels)
        assert known is not None
    return known.scores


def scored(labels: IntArray, rows: BoolArray, store: MemoryStore, scorer: LazyScorer) -> ScoreArray:
    """Scores of some examples under a labelling, ``[n, n_labels]``: from the store, or new."""
    scorer.visit(labels)
    known = store.lookup(labels, lambda scores: bool(scored_rows(scores)[rows].all()))
    if known is None:
        store.check_model(scorer.identity())
        missing = rows & ~store.known_rows(labels)
        store.record(_labelling(labels, scorer.score(labels, missing, enough=None, priority=None)))
        known = store.lookup(labels)
        assert known is not None
    return known.scores


def checked(
    store: MemoryStore, scorer: LazyScorer, score: Callable[[IntArray], Scored]
) -> Callable[[IntArray], ScoredLabelling]:
    """``score``, but first the model is compared with that of the run."""

    def score_checked(labels: IntArray) -> ScoredLabelling:
        store.check_model(scorer.identity())
        return _labelling(labels, score(labels))

    return score_checked


def _labelling(labels: IntArray, scored: Scored) -> ScoredLabelling:
    return ScoredLabelling(labels.copy(), scored.scores, scored.n_tokens)


def _with_known(store: MemoryStore, labels: IntArray, rejects: Enough) -> Enough:
    """``rejects`` for new scores together with those of the same labelling that are known."""
    known = store.lookup(labels)
    if known is None:
        return rejects
    return lambda scores: rejects(np.where(np.isnan(scores), known.scores, scores))


def _priority(engine: SearchEngine, ask: Ask) -> FloatArray:
    """Order of scoring, ``[n]``: first what is likely to lower the bound most.

    The new labels' log-probabilities in the present state are the guess.
    """
    labels, before = ask.labels, engine.scores
    priority = np.zeros(len(labels))
    known = (labels != UNLABELLED) & scored_rows(before)
    priority[known] = before[known, labels[known]]
    return priority
