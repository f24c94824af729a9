"""The one exception for people at the edge of the system."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: says what, where, the value against its limit, and the fix.

    The command line prints it as one line and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'? known: ...``, or the known words alone if none is near."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}? known: {', '.join(words)}"
    return f"; known: {', '.join(words)}"
