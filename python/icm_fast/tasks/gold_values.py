"""What a value of a gold column means: a label, unknown, or nothing that may be guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from icm_fast.errors import InputError, shown
from icm_fast.tasks.rows import Row, is_gap

_WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0+")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


class GoldReader:
    """Reads gold values by a rule that cannot be wrong.

    A value means a label if it is the label's text; else if it is that text with blanks around it
    aside; else if it is with case and the ``.0`` of whole floats aside, too. A match counts only
    where one label alone matches. With a map, values are looked up among its keys in the same
    way, and the labels that it names likewise. Positions of labels are never assumed.
    """

    def __init__(self, labels: Sequence[str], gold_map: Mapping[str, str] | None = None) -> None:
        """Check the map.

        Args:
            labels: Label texts.
            gold_map: Label of each value; values are compared as text.

        Raises:
            InputError: The map names something else than a label.
        """
        self._labels = list(labels)
        self._map: dict[str, int] | None = None
        if gold_map is not None:
            self._map = {_text(key): self._mapped(key, target) for key, target in gold_map.items()}
        known = self._labels if self._map is None else list(self._map)
        self._known = known
        self._numbers = any(_NUMBER.fullmatch(text.strip()) for text in known)

    def read(self, row: Row, column: str | None) -> int:
        """Return the label index that a column means; -1 if it is absent or empty.

        Raises:
            InputError: The value matches no label, or several.
        """
        value = None if column is None else row.values.get(column)
        if is_gap(value) or (isinstance(value, str) and not value.strip()):
            return -1
        found = _matches(value, self._known)
        if len(found) == 1:
            return found[0] if self._map is None else self._map[self._known[found[0]]]
        if not found and _loosely(_text(value)) == "-1" and not self._numbers:
            return -1  # "not labelled" in many data sets; no label here is a number
        raise InputError(f"{row.where}: gold {shown(value)} {self._problem(found, value)}")

    def _problem(self, found: Sequence[int], value: object) -> str:
        known = ", ".join(shown(text) for text in self._known[:20])
        if found:
            both = ", ".join(shown(self._known[k]) for k in found)
            return f"fits {both} alike; write one of them exactly"
        if self._map is not None:
            return f"is not in gold_map, which has {known}; add it, or empty the cell if unknown"
        entry = f"gold_map: {{{shown(_text(value))}: {shown(self._labels[0])}, ...}}"
        return (
            f"is not a label; labels are {known}: write one of them, empty the cell if it is "
            f"unknown, or say what each value means with {entry}"
        )

    def _mapped(self, key: object, target: object) -> int:
        found = _matches(target, self._labels)
        if len(found) != 1:
            known = ", ".join(shown(label) for label in self._labels[:20])
            raise InputError(
                f"gold_map turns {shown(key)} into {shown(target)}, which is not one of the labels "
                f"{known}; correct it"
            )
        return found[0]


def _matches(value: object, known: Sequence[str]) -> list[int]:
    """Positions of the known texts that the value means, by the strictest rule that finds one."""
    if not isinstance(value, str | int | float):
        return []
    text = _text(value)
    # A whole float may be an integer of a column with gaps: it gets no exact match of its own.
    rules = (_loosely,) if isinstance(value, float) else (str, str.strip, _loosely)
    for rule in rules:
        found = [k for k, other in enumerate(known) if rule(other) == rule(text)]
        if found:
            return found
    return []


def _text(value: object) -> str:
    return value if isinstance(value, str) else str(value)


def _loosely(text: str) -> str:
    """The text without what tables change: case, blanks around it, the ``.0`` of whole floats."""
    bare = text.strip().casefold()
    whole = _WHOLE_FLOAT.fullmatch(bare)
    return whole[1] if whole else bare
