"""Pairs of responses of which one is better, and reading them from a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from icm_fast.errors import InputError
from icm_fast.export.preferences import SAME_TEXT
from icm_fast.tasks.rows import PathLike, Row, read_rows


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to a prompt.

    Attributes:
        prompt: The question; empty where the texts stand alone.
        chosen: The better response.
        rejected: The worse one.
        group: Pairs of one group belong together; None stands alone.
        margin: How much better, 0 or more; used as ``RewardConfig.margin_scale`` says.
        probability: That ``chosen`` is the better one, in 0 .. 1 (a soft label).
    """

    prompt: str
    chosen: str
    rejected: str
    group: str | None = None
    margin: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise InputError(f"the margin of a pair must be 0 or more, got {self.margin}")
        if not 0 <= self.probability <= 1:
            raise InputError(f"the probability of a pair must be in 0 .. 1, got {self.probability}")


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs to train on.

    Attributes:
        pairs: In the order of their source.
        left_out: Why what was left out, and how often.
    """

    pairs: tuple[Pair, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)


def read_pairs(path: PathLike) -> PairSet:
    """Read a preference file.

    Args:
        path: JSON, JSONL, CSV or Parquet file, or ``hub:NAME``, with the columns
            ``chosen`` and ``rejected`` and, as far as they are there, ``prompt``, ``group``,
            ``margin`` and ``probability``. Rows whose two texts are the same are left out.

    Raises:
        InputError: A file that cannot be read, or a column that is missing or of a wrong type.
    """
    return different(row_pair(row) for row in read_rows(path))


def row_pair(row: Row) -> Pair:
    """The pair of one row.

    Raises:
        InputError: A column is missing or of a wrong type.
    """
    for column in ("prompt", "chosen", "rejected"):
        row.check_text(
            column,
            ", the last turn of a conversation in chosen and rejected and what came before it in "
            "prompt",
        )
    try:
        return Pair(
            prompt=row.optional("prompt") or "",
            chosen=row.text("chosen"),
            rejected=row.text("rejected"),
            group=row.optional("group"),
            margin=_number(row, "margin", 0.0),
            probability=_number(row, "probability", 1.0),
        )
    except InputError as error:
        if str(error).startswith(row.where):
            raise
        raise InputError(f"{row.where}: {error}; correct that row") from error


def different(pairs: Iterable[Pair]) -> PairSet:
    """The pairs with two different texts; the others are counted."""
    given = tuple(pairs)
    kept = tuple(pair for pair in given if pair.chosen != pair.rejected)
    n_same = len(given) - len(kept)
    return PairSet(kept, {SAME_TEXT: n_same} if n_same else {})


def _number(row: Row, column: str, default: float) -> float:
    text = row.optional(column)
    if text is None:
        return default
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{row.where}: {column!r} is {text!r}; write a number") from None
