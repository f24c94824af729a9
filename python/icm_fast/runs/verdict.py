"""The verdict on found labels as summaries hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from icm_fast.files.fields import Fields

TRUST, DOUBT, REJECT = "trust", "doubt", "reject"
LEVELS = (TRUST, DOUBT, REJECT)
VERDICT = "verdict"
"""Key in a summary."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether labels can be trusted.

    Attributes:
        level: ``trust``, ``doubt`` or ``reject``.
        chance: Chance that the labels are usable, from signs that need no gold.
        reasons: What speaks for the labels or against them, gravest first.
        advice: What to do about it; empty where there is nothing to do.
    """

    level: str
    chance: float
    reasons: tuple[str, ...]
    advice: str = ""

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        said = {
            TRUST: "Trust these labels",
            DOUBT: "Doubt these labels",
            REJECT: "Reject these labels",
        }[self.level]
        return f"{said}: the chance that they are usable is about {self.chance:.0%}."

    def content(self) -> dict[str, object]:
        """As plain JSON types."""
        return asdict(self) | {"reasons": list(self.reasons)}


def read_verdict(summary: Mapping[str, object]) -> Verdict | None:
    """The verdict in a summary; None where none was given.

    Raises:
        InputError: It is damaged.
    """
    return stored_verdict(Fields(dict(summary), "summary", "run the command again"))


def stored_verdict(summary: Fields) -> Verdict | None:
    """The verdict in a summary that is being read; None where none was given.

    Raises:
        InputError: It is damaged; names the file.
    """
    if summary.content.get(VERDICT) is None:
        return None
    fields = summary.inner(VERDICT)
    level = fields.text("level")
    if level not in LEVELS:
        raise fields.wrong("level", "one of " + ", ".join(LEVELS))
    advice = fields.optional_text("advice") or ""
    return Verdict(level, fields.number("chance", 0.0, 1.0), tuple(fields.texts("reasons")), advice)


def verdict_level(summary: Mapping[str, object]) -> str | None:
    """``trust``, ``doubt`` or ``reject``; None where no verdict was given."""
    verdict = read_verdict(summary)
    return None if verdict is None else verdict.level
