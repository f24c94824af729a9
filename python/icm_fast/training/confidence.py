"""The confidence in labels, as trainings use it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from icm_fast.engine.result import scores_alone
from icm_fast.engine.verdict import label_confidence
from icm_fast.errors import InputError
from icm_fast.runs.config import read_config, run_fingerprint
from icm_fast.runs.finished import FinishedRun
from icm_fast.runs.score_log import ScoreLog
from icm_fast.runs.store import CONFIG_FILE, EVALUATIONS_FILE, MemoryStore
from icm_fast.types import FloatArray

NONE, CONFIDENCE, LEAVE_ONE_OUT = "none", "confidence", "leave-one-out"
_SUREST = 0.999
"""The confidence of which the log-odds are the largest margin, 6.9 nats."""


def run_confidence(run: FinishedRun) -> FloatArray | None:
    """The ``confidence`` of a finished search's result, ``[n]``; 0 where unlabelled.

    Returns:
        None where the search did not score each example alone.

    Raises:
        InputError: The scores of the run are missing or damaged.
    """
    shape = (len(run.dataset), len(run.dataset.label_space))
    fingerprint = run_fingerprint(read_config(run.folder / CONFIG_FILE))
    log = ScoreLog(run.folder / EVALUATIONS_FILE, *shape, fingerprint, writable=False)
    alone = scores_alone(MemoryStore(log.labellings), run.config, len(run.dataset))
    if alone is None or not np.isfinite(run.scores).all():
        return None
    return label_confidence(run.labels, alone, run.scores)


def loss_weights(confidence: Sequence[float | None] | npt.NDArray[np.floating]) -> list[float]:
    """What examples count in a loss: their confidence, scaled so that the mean is 1.

    Args:
        confidence: Of every example, in 0 .. 1.

    Raises:
        InputError: One is missing or out of range, or all are 0.
    """
    known = [_checked(value, row) for row, value in enumerate(confidence)]
    mean = math.fsum(known) / len(known)
    if not mean:
        raise InputError("the confidence of every example is 0; set weights to none")
    return [value / mean for value in known]


def confidence_margin(confidence: float | None, row: int) -> float:
    """The margin of a pair in nats: the log-odds of its confidence, and 0 below one half.

    Raises:
        InputError: There is none.
    """
    known = min(_checked(confidence, row), _SUREST)
    return 0.0 if known <= 0.5 else math.log(known / (1 - known))


def _checked(value: float | None, row: int) -> float:
    if value is None or math.isnan(value):
        raise InputError(
            f"example {row} has no confidence; train on a search that scored each example alone "
            "(preset default), on a labelling or on a file with the column confidence, or leave "
            "out weights=confidence and margin=confidence"
        )
    number = float(value)
    if not 0 <= number <= 1:
        raise InputError(f"the confidence of example {row} must be in 0 .. 1, got {number}")
    return number
