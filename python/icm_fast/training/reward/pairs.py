"""Pairs of responses of which one is better, and reading them from a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from icm_fast.errors import InputError
from icm_fast.export.preferences import SAME_TEXT
from icm_fast.tasks.rows import PathLike, Row, read_rows
from icm_fast.training.chat import Prompt, read_answer, read_conversation, read_prompt


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to a prompt.

    Attributes:
        prompt: The question, a text or messages; empty where the texts stand alone.
        chosen: The better response.
        rejected: The worse one.
        group: Pairs of one group belong together; None stands alone.
        margin: How much better, 0 or more; used as ``RewardConfig.margin_scale`` says.
        probability: That ``chosen`` is the better one, in 0 .. 1 (a soft label).
        confidence: Probability that its label is right, in 0 .. 1, for weights and margins; None
            where it is not known.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    group: str | None = None
    margin: float = 0.0
    probability: float = 1.0
    confidence: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise InputError(f"the margin of a pair must be 0 or more, got {self.margin}")
        if not 0 <= self.probability <= 1:
            raise InputError(f"the probability of a pair must be in 0 .. 1, got {self.probability}")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise InputError(f"the confidence of a pair must be in 0 .. 1, got {self.confidence}")


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
            ``margin``, ``probability`` and ``confidence``. Texts may be lists of messages, as trl
            has them. Rows whose two texts are the same are left out.

    Raises:
        InputError: A file that cannot be read, or a column that is missing or of a wrong type.
    """
    return different(row_pair(row) for row in read_rows(path))


def row_pair(row: Row) -> Pair:
    """The pair of one row: texts, or messages as trl has them, with or without a prompt column.

    Raises:
        InputError: A column is missing or of a wrong type.
    """
    prompt, chosen, rejected = _texts(row)
    try:
        return Pair(
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            group=row.optional("group"),
            margin=_number(row, "margin", 0.0),
            probability=_number(row, "probability", 1.0),
            confidence=(
                None if row.optional("confidence") is None else _number(row, "confidence", 0.0)
            ),
        )
    except InputError as error:
        if str(error).startswith(row.where):
            raise
        raise InputError(f"{row.where}: {error}; correct that row") from error


def _texts(row: Row) -> tuple[Prompt, str, str]:
    """Prompt, chosen and rejected text of a row."""
    both = [row.values.get(column) for column in ("chosen", "rejected")]
    if all(isinstance(value, list) and len(value) > 1 for value in both):
        # Whole conversations, which hold the prompt; a prompt column repeats its text.
        (prompt, chosen), (other, rejected) = (
            read_conversation(row, column) for column in ("chosen", "rejected")
        )
        if prompt != other:
            raise InputError(
                f"{row.where}: the conversations in chosen and rejected differ before their last "
                "message, so they answer different prompts; remove that row"
            )
        return prompt, chosen, rejected
    if isinstance(row.values.get("prompt"), list):
        return read_prompt(row), read_answer(row, "chosen"), read_answer(row, "rejected")
    row.check_text("prompt", ", or a list of messages with role and content")
    text = row.optional("prompt") or ""
    return text, read_answer(row, "chosen"), read_answer(row, "rejected")


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
