"""The one exception for people at the edge of the system."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """Bad input: says what, where, the value against its limit, and the fix.

    The command line prints it as one line and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


_LONGEST_VALUE = 80
_LONGEST_WORD = 60
_MOST_KNOWN = 80


class _Short(reprlib.Repr):
    """A repr whose length does not depend on the size of the value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxstring = self.maxother = self.maxlong = _LONGEST_VALUE
        self.maxlist = self.maxtuple = self.maxset = self.maxdict = 6

    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python prints no integer of more than 4,300 digits
            return f"an integer of {x.bit_length()} bits"


def shown(value: object) -> str:
    """Return ``repr(value)`` for a message, cut to a line whatever the value holds."""
    return _Short().repr(value)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'? known: ...``, or the known words alone if none is near."""
    words = sorted(known)
    near = difflib.get_close_matches(word[:_LONGEST_WORD], words[:1000], n=1, cutoff=0.5)
    if near:
        return f"; did you mean {shown(near[0])}? known: {listed(words)}"
    return f"; known: {listed(words)}"


def listed(words: Sequence[str]) -> str:
    """Words of a file or a user for a message: harmless, each cut, and not too many."""
    some = ", ".join(short_word(word) for word in words[:_MOST_KNOWN])
    return some + (f" and {len(words) - _MOST_KNOWN} more" if len(words) > _MOST_KNOWN else "")


def short_word(word: str) -> str:
    """The word, or its cut repr where it is long or not printable."""
    return word if len(word) <= _LONGEST_WORD and word.isprintable() else shown(word)
