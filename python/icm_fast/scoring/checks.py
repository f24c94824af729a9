"""Checks of what a scorer returned."""

from __future__ import annotations

import numpy as np

from icm_fast.errors import InputError
from icm_fast.scoring.protocol import Scored
from icm_fast.types import BoolArray, Dataset, ScoreArray


def as_float32(scored: Scored) -> Scored:
    """The same scores as a contiguous float32 array."""
    return Scored(np.ascontiguousarray(scored.scores, dtype=np.float32), int(scored.n_tokens))


def checked(dataset: Dataset, scored: Scored, rows: BoolArray | None = None) -> Scored:
    """The same scores as float32, once :func:`check_scores` has accepted them."""
    scored = as_float32(scored)
    check_scores(dataset, scored.scores, rows)
    return scored


def check_scores(dataset: Dataset, scores: ScoreArray, rows: BoolArray | None = None) -> None:
    """Refuse scores that are not finite, in the rows given (all by default).

    Raises:
        InputError: Names the first example with a NaN or an infinity.
    """
    expected = (len(dataset), len(dataset.label_space))
    if scores.shape != expected:
        raise InputError(
            f"the scorer returned scores of shape {scores.shape}, expected {expected}; "
            "return one row per example and one column per label"
        )
    finite = np.isfinite(scores).all(axis=1)
    bad = np.flatnonzero(~finite if rows is None else ~finite & rows)
    if len(bad):
        row = int(bad[0])
        kind = "NaN" if np.isnan(scores[row]).any() else "infinite"
        raise InputError(
            f"the model returned {kind} log-probabilities for example "
            f"{dataset.examples[row].id!r} (row {row}; {len(bad)} of {len(dataset)} rows); use "
            "dtype float32 (--set dtype=float32) or other weights"
        )
