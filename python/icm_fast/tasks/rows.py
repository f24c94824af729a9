"""Rows of files and Hugging Face data, each with its origin, and what their values mean."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from icm_fast.errors import InputError, shown
from icm_fast.files import check_name, expanded
from icm_fast.tasks.formats import Record, file_type, read_records, read_text
from icm_fast.tasks.hub import HUB_PREFIX, hub_records

PathLike = str | os.PathLike[str]

NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Control characters and halves of surrogate pairs: no text that a person wrote holds them."""

_GAPS = frozenset(("nan", "NaN", "<NA>", "NaT"))
"""What a missing value becomes where a table was converted to text."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record.

    Attributes:
        number: Position in the file, from 0.
        where: File and line, for error messages.
        values: Column name to value.
    """

    number: int
    where: str
    values: Mapping[str, object]

    def text(self, column: str) -> str:
        """Return a column as text: what is there, or an integer in digits.

        Raises:
            InputError: It is absent, blank, a gap, of another type, or holds what is not text.
        """
        value = self.values.get(column)
        if isinstance(value, str) and (bare := value.strip()) and bare not in _GAPS:
            return self._checked(str(value), column)
        if is_gap(value) or isinstance(value, str):
            state = "is empty" if value is None or not str(value).strip() else f"is {value}, a gap"
            state = state if column in self.values else "is missing"
            raise InputError(
                f"{self.where}: column {shown(column)} {state}; fill it or remove the row"
            )
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InputError(
                f"{self.where}: column {shown(column)} is {shown(value)}, of type "
                f"{type(value).__name__}, where text is expected; convert the column to text (in "
                f"pandas: df[{shown(column)}] = df[{shown(column)}].map(str), after gaps are "
                "filled)"
            )
        return str(value)

    def _checked(self, text: str, column: str) -> str:
        # Rows are many: the place is put into words only for a message.
        if NOT_TEXT.search(text) is None:
            return text
        return checked_text(text, f"{self.where}: column {shown(column)}")

    def check_text(self, column: str, more: str = "") -> None:
        """Raise InputError if a column is not text; the message ends with ``more``."""
        value = self.values.get(column)
        if value is None or (isinstance(value, str) and value.strip() not in _GAPS):
            return
        if is_gap(value):
            raise InputError(f"{self.where}: column {shown(column)} is {value}, a gap; fill it")
        kind = type(value).__name__
        raise InputError(
            f"{self.where}: column {shown(column)} is a {kind}; write plain text{more}"
        )

    def optional(self, column: str | None) -> str | None:
        """Return a column as text, or None if it is absent, blank or a gap."""
        value = None if column is None else self.values.get(column)
        if is_gap(value) or not str(value).strip():
            return None
        if isinstance(value, float) and value in (float("inf"), float("-inf")):
            raise InputError(
                f"{self.where}: column {shown(column)} is {value}; correct or empty it"
            )
        assert column is not None
        return self._checked(str(value), column)


def is_gap(value: object) -> bool:
    """Tell whether a value stands for none: None, NaN or NaT, or their names written as text."""
    return value is None or value != value or (isinstance(value, str) and value.strip() in _GAPS)


def checked_text(text: str, where: str) -> str:
    """Return a text.

    Raises:
        InputError: It holds control characters or halves of surrogate pairs.
    """
    found = NOT_TEXT.search(text)
    if found is not None:
        kind = "a lone surrogate" if found[0] >= "\ud800" else "a control character"
        raise InputError(
            f"{where} holds {kind} (U+{ord(found[0]):04X}) at position {found.start()}; remove it"
        )
    return text


def binary_gold(row: Row, column: str = "label") -> int:
    """Return 1, 0 or -1 (unknown: absent, empty or -1) from booleans, 0/1 or true/false."""
    value = row.values.get(column)
    word = "" if value is None else str(value).strip().lower()
    known = {"1": 1, "true": 1, "1.0": 1, "0": 0, "false": 0, "0.0": 0}
    known |= dict.fromkeys(("", "-1", "-1.0", "none", "null", "nan", "nat", "<na>"), -1)
    if word not in known:
        raise InputError(
            f"{row.where}: gold {shown(column)} is {shown(value)}; write 1 or 0 (true or "
            "false), or "
            "omit it if it is unknown"
        )
    return known[word]


def require_path(task: str, path: PathLike | None) -> Path:
    """Return the path of a task that reads a file."""
    if path is None:
        raise InputError(f"task {shown(task)} needs a file: load_task({shown(task)}, 'data.jsonl')")
    return expanded(path)


def read_rows(source: PathLike, *, most: int | None = None) -> list[Row]:
    """Read the records of a file, by its suffix, or of a data set of the Hugging Face Hub.

    Args:
        source: JSON, JSONL, CSV or TSV file, each also as .gz, Parquet file, or
            ``hub:NAME[@revision][/config][:split]``.
        most: Maximum number of rows of a data set of the Hub, which is streamed up to it.

    Raises:
        InputError: Missing, empty, unreadable or malformed file (with the line).
    """
    rows = list(islice(stream_rows(source), most))
    if not rows:
        raise InputError(f"{source} contains no rows; pass a file with one record per example")
    return rows


def stream_rows(source: PathLike) -> Iterator[Row]:
    """Yield the rows of :func:`read_rows` one by one; those of the Hub as they are fetched."""
    check_name("data file", str(source))
    if str(source).startswith(HUB_PREFIX):
        records = hub_records(str(source))
    else:
        records = read_records(expanded(source))
    return (_row(position, record) for position, record in enumerate(records))


def read_limited(source: PathLike, limit: int | None, group: str | None) -> list[Row]:
    """The rows of :func:`read_rows` from which a task draws its examples.

    All of a file; of the Hub only the first ``limit``, and the rest of the last one's group.

    Args:
        source: See :func:`read_rows`.
        limit: Maximum number of examples that the task wants; None for all.
        group: Column of the rows' groups, if there are any.

    Raises:
        InputError: Same as :func:`read_rows`, or a limit that is not an integer of at least 1.
    """
    if limit is None or not str(source).startswith(HUB_PREFIX):
        return read_rows(source)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(f"limit must be an integer of at least 1, got {shown(limit)}")
    if group is None:
        return read_rows(source, most=limit)
    rows: list[Row] = []
    for row in stream_rows(source):
        last = rows[-1].optional(group) if rows else None
        if len(rows) >= limit and (last is None or row.optional(group) != last):
            break
        rows.append(row)
    return rows


def _row(position: int, record: Record) -> Row:
    where, values = record
    check_names_of_columns(where, values)
    return Row(position, where, values)


def check_names_of_columns(where: str, names: Iterable[str]) -> None:
    """Raise InputError if a name holds what :func:`checked_text` refuses."""
    if NOT_TEXT.search("".join(names)) is None:
        return
    for column in names:
        checked_text(column, f"{where}: the name of column {shown(column)}")


def is_text_file(source: PathLike) -> bool:
    """Whether a source is a file with one text per line: .txt or .txt.gz."""
    return not str(source).startswith(HUB_PREFIX) and file_type(Path(source)) == ".txt"


def read_column(source: PathLike, column: str) -> list[str]:
    """Read one text per record.

    Args:
        source: Text file (.txt, .txt.gz) with one text per line, blank lines skipped; or what
            :func:`read_rows` reads, with the column.
        column: Name of the column.

    Raises:
        InputError: Same as :func:`read_rows`; a row (with its line) in which the column is missing
            or not text; or no text at all.
    """
    if is_text_file(source):
        path = expanded(source)
        texts = [
            checked_text(line, f"{path.name}, line {position}")
            for position, line in enumerate(read_text(path).split("\n"), start=1)
            if line.strip()
        ]
    else:
        rows = read_rows(source)
        for row in rows:
            row.check_text(column)
        texts = [row.text(column) for row in rows]
    if not texts:
        raise InputError(f"{source} contains no {column}s; write one per line")
    return texts
