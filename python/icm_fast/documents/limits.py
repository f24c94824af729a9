"""How large values and how deep nesting may be, in whatever format."""

from __future__ import annotations

from icm_fast.errors import InputError

MAX_DEPTH = 64
"""Lists and mappings inside each other."""
MAX_DIGITS = 400
"""Digits of an integer."""
MAX_NODES = 2_000_000
"""Values of a document once its aliases are replaced by what they stand for."""


class RefusedError(ValueError):
    """A value that is well-formed but not accepted; the message begins with its place, if any."""


class NotYamlError(InputError):
    """A text that is not YAML at all.

    Attributes:
        reason: The line and what is wrong there.
    """

    def __init__(self, where: str, line: str, problem: str) -> None:
        super().__init__(f"{where}{line}: not YAML ({problem}); correct that line")
        self.reason = f"{line.removeprefix(', ')}: {problem}".removeprefix(": ")


def too_long(digits: str) -> str:
    """The message about an integer of too many digits."""
    return (
        f"an integer of {len(digits)} digits, but at most {MAX_DIGITS} are read; write it as text"
    )


def too_deep(where: str) -> str:
    """The message about a document that is nested too deep."""
    return f"{where}: lists or mappings nested more than {MAX_DEPTH} deep; flatten them"


def check_depth(value: object, where: str) -> None:
    """Raise InputError if lists and mappings lie deeper inside each other than ``MAX_DEPTH``."""
    level, depth = [value], 0
    while level := [
        inner
        for outer in level
        if isinstance(outer, dict | list)
        for inner in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        depth += 1
        if depth > MAX_DEPTH:
            raise InputError(too_deep(where))
