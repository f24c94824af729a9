"""Where a search starts: what the model says of each example alone, and among confident others.

A round takes the labels that the evidence so far gives, shows the more confident half of each label
as demonstrations, and scores every example among them: those that are shown among all others that
are. The evidence is the sum of the calibrated predictions of the example alone and of each round.
Half of the labels serve better than all: the half that is left out is wrong more often, and small
models read short contexts better (dev/LOG.md). On choosing confident demonstrations: Naive-SemiICL,
arXiv 2503.03062.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from icm_fast.scoring.posterior import calibrated_evidence
from icm_fast.tasks.consistent import consistent_labels
from icm_fast.types import (
    UNLABELLED,
    Constraint,
    Dataset,
    FloatArray,
    IntArray,
    ScoreArray,
)

SHARE_SHOWN = 0.5
"""Share of the examples of each label that a round shows."""

Evaluate = Callable[[IntArray], ScoreArray]
"""Scores of all examples under a labelling: ``[n]`` to ``[n, n_labels]``."""


def bootstrap(
    dataset: Dataset,
    evaluate: Evaluate,
    *,
    fixed: IntArray | None,
    rounds: int,
    shares: tuple[float, ...] = (),
    enough: Callable[[], bool] = lambda: False,
) -> ScoreArray:
    """The evidence for each label of each example, ``[n, n_labels]`` float32, in nats.

    Args:
        dataset: Examples, label space and constraints.
        evaluate: Scores a labelling.
        fixed: ``[n]`` known labels, which are shown in every round; -1 where there is none.
        rounds: How often labels are shown.
        shares: Expected shares of the labels; empty for equal ones.
        enough: Whether no further labelling may be scored.
    """
    known = np.full(len(dataset), UNLABELLED, np.int32) if fixed is None else fixed
    free = known == UNLABELLED
    alone = calibrated_evidence(evaluate(known), free)
    rest = np.log(shares) if shares else np.zeros(alone.shape[1])
    views: list[FloatArray] = []
    shown: IntArray | None = None
    for _ in range(rounds):
        evidence = _together(alone, views) + rest
        before, shown = shown, confident_half(evidence, known, dataset.constraints)
        if enough() or (before is not None and (before == shown).all()):
            break
        views.append(calibrated_evidence(evaluate(shown), free))
    return _together(alone, views).astype(np.float32)


def confident_half(
    evidence: FloatArray, known: IntArray, constraints: tuple[Constraint, ...]
) -> IntArray:
    """Labels of the more confident half of each label, ``[n]`` int32 and -1 for all others.

    Args:
        evidence: ``[n, n_labels]``.
        known: ``[n]`` known labels, all of which are kept.
        constraints: Rules that the labels keep.
    """
    free = known == UNLABELLED
    labels = np.where(free, evidence.argmax(axis=1), known).astype(np.int32)
    likely = np.exp(evidence - np.logaddexp.reduce(evidence, axis=1, keepdims=True))
    labels = consistent_labels(likely.astype(np.float32), labels, ~free, constraints)
    rows = np.arange(len(labels))
    others = evidence.copy()
    others[rows, labels] = -np.inf
    margins = evidence[rows, labels] - others.max(axis=1)
    shown = known.copy()
    for label in range(evidence.shape[1]):
        mine = np.flatnonzero(free & (labels == label))
        order = mine[np.argsort(-margins[mine], kind="stable")]
        shown[order[: round(SHARE_SHOWN * len(order) + 1e-9)]] = label
        if len(order) == 1:
            shown[order] = label
    return shown


def _together(alone: FloatArray, views: list[FloatArray]) -> FloatArray:
    return alone + np.sum(views, axis=0) if views else alone
