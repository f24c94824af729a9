"""Files of short texts with the scores of raters: one line each, fields between tabs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from icm_fast.errors import InputError, shown, suggest
from icm_fast.tasks.formats import read_text

T = TypeVar("T")


class Snippet(NamedTuple):
    """One text: the id of its row, the mean score of its raters in -4 .. 4, the cleaned text."""

    row_id: str
    score: float
    text: str


def read_snippets(path: Path, kind: str) -> Iterator[Snippet]:
    """Yield the snippets of a file in its order.

    Args:
        path: The file.
        kind: What a text is, for messages.

    Raises:
        InputError: The file is empty, or a line is not an id, a score and a text.
    """
    for where, fields in read_fields(path, 3):
        text = clean_text(fields[2])
        if not text:
            raise InputError(f"{where}: the {kind} is empty; fill it or remove the line")
        yield Snippet(fields[0], parse_score(where, fields[1], float), text)


def check_choice(task: str, option: str, value: str, known: Sequence[str]) -> None:
    """Raise InputError if an option of a task has an unknown value."""
    if value not in known:
        raise InputError(f"unknown {option} {shown(value)} of {task}{suggest(str(value), known)}")


def clean_text(text: str) -> str:
    """Return a snippet with ``''`` as double quotes and single spaces."""
    return " ".join(text.replace("''", '"').split())


def parse_score(where: str, text: str, read: Callable[[str], T]) -> T:
    """What ``read`` makes of a field.

    Raises:
        InputError: It raises ValueError.
    """
    try:
        return read(text)
    except ValueError as error:
        raise InputError(f"{where}: {shown(text)} is not a score; correct that line") from error


def read_fields(path: Path, count: int) -> Iterator[tuple[str, list[str]]]:
    """Yield (place for messages, fields) of each line that is not blank.

    Raises:
        InputError: The file is empty, or a line has another number of fields than ``count``.
    """
    lines = read_text(path).split("\n")
    if not any(line.strip() for line in lines):
        raise InputError(f"{path} is empty; use the published file {path.name}")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            fields = line.split("\t")
            where = f"{path.name}, line {number}"
            if len(fields) != count:
                raise InputError(f"{where}: {len(fields)} tab-separated fields, expected {count}")
            yield where, fields
