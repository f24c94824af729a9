"""The confidence in labels, as trainings use it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from icm_fast.errors import InputError

NONE, CONFIDENCE, LEAVE_ONE_OUT = "none", "confidence", "leave-one-out"
_SUREST = 0.999
"""The confidence of which the log-odds are the largest margin, 6.9 nats."""


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
            "(preset default; of a run folder of version 0.1 run the search again, which scores "
            "nothing anew), on a labelling or on a file with the column confidence, or leave out "
            "weights=confidence and margin=confidence"
        )
    number = float(value)
    if not 0 <= number <= 1:
        raise InputError(f"the confidence of example {row} must be in 0 .. 1, got {number}")
    return number
