"""What the engine asks for: from the store, or else from the model and then stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.runs.score_log import Evaluation
from icm_fast.runs.store import MemoryStore, scored_rows
from icm_fast.scoring.lazy import LazyScorer
from icm_fast.scoring.protocol import Scored
from icm_fast.types import UNLABELLED, FloatArray, IntArray, ScoreArray


def answer(
    engine: Any, ask: Any, store: MemoryStore, scorer: LazyScorer, config: SearchConfig
) -> ScoreArray:
    """Scores for an ask.

    Only rows that the ask needs and that are not known are scored; scoring stops once what is known
    suffices to reject the candidate.
    """

    def suffices(scores: ScoreArray) -> bool:
        missing = ask.rows & ~scored_rows(scores)
        return not missing.any() or bool(engine.rejects(scores))

    scorer.visit(ask.labels)
    evaluation = store.lookup(ask.labels, suffices)
    if evaluation is None:
        store.check_model(scorer.identity())
        may_stop = config.early_rejection and engine.may_reject
        scored = scorer.score(
            ask.labels,
            ask.rows & ~store.known_rows(ask.labels),
            enough=_with_known(store, ask.labels, engine.rejects) if may_stop else None,
            priority=_priority(engine, ask) if may_stop else None,
        )
        store.record(_evaluation(ask.labels, scored))
        evaluation = store.lookup(ask.labels)
        assert evaluation is not None
    return evaluation.scores


def checked(
    store: MemoryStore, scorer: LazyScorer, score: Callable[[IntArray], Scored]
) -> Callable[[IntArray], Evaluation]:
    """``score`` after a look at whether the model is that of the run."""

    def score_checked(labels: IntArray) -> Evaluation:
        store.check_model(scorer.identity())
        return _evaluation(labels, score(labels))

    return score_checked


def _evaluation(labels: IntArray, scored: Scored) -> Evaluation:
    return Evaluation(labels.copy(), scored.scores, scored.n_tokens)


def _with_known(store: MemoryStore, labels: IntArray, rejects: Any) -> Any:
    """The test of new scores together with those of the same labelling that are known."""
    known = store.lookup(labels)
    if known is None:
        return rejects
    return lambda scores: rejects(np.where(np.isnan(scores), known.scores, scores))


def _priority(engine: Any, ask: Any) -> FloatArray:
    """What is scored first: what lowers the bound most.

    That is judged by the log-probabilities of the new labels in the present state.
    """
    labels, before = ask.labels, engine.scores
    priority = np.zeros(len(labels))
    known = (labels != UNLABELLED) & scored_rows(before)
    priority[known] = before[known, labels[known]]
    return priority
