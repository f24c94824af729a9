"""Figures with intervals, and tables of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from icm_fast.files.text import cell
from icm_fast.types import FloatArray

N_RESAMPLES = 1000
LEVEL = 0.95
NO_SUBSET = "all"
"""The subset of rows that name none."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its interval.

    Attributes:
        value: Accuracy or score in 0 .. 1; or a difference of rewards.
        low: Lower end of the 95 % interval.
        high: Upper end.
        n: Pairs of texts, or prompts, that it was computed from.
    """

    value: float
    low: float
    high: float
    n: int


def figure(value: float, drawn: FloatArray, n: int) -> Figure:
    """A figure with the percentiles of its resamples ``[N_RESAMPLES]``."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Figure(float(value), float(low), float(high), n)


def table(
    head: str, figures: Mapping[str, Figure], *, value: str = "accuracy", counted: str = "pairs"
) -> str:
    """A Markdown table, with names for the columns of names, values and counts."""
    lines = [f"| {head} | {value} | 95 % | {counted} |", "|---|---|---|---|"]
    lines += [
        f"| {cell(name)} | {f.value:.3f} | {f.low:.3f}-{f.high:.3f} | {f.n} |"
        for name, f in figures.items()
    ]
    return "\n".join(lines)
