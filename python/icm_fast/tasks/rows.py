"""Rows of JSON, JSONL, CSV, Parquet and Hugging Face data, each with its origin."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from icm_fast.errors import InputError, first_line, suggest

PathLike = str | os.PathLike[str]

HUB_PREFIX = "hub:"
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".parquet")


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
        """Return a column as text; InputError if it is absent or blank."""
        value = self.values.get(column)
        if value is None or not str(value).strip():
            state = "is empty" if column in self.values else "is missing"
            raise InputError(f"{self.where}: column {column!r} {state}; fill it or remove the row")
        return str(value)

    def check_text(self, column: str, more: str = "") -> None:
        """Raise InputError if a column is not text; the message ends with ``more``."""
        value = self.values.get(column, "")
        if not isinstance(value, str | None):
            kind = type(value).__name__
            raise InputError(f"{self.where}: column {column!r} is a {kind}; write plain text{more}")

    def optional(self, column: str | None) -> str | None:
        """Return a column as text, or None if it is absent or blank."""
        value = None if column is None else self.values.get(column)
        if value is None or value != value or not str(value).strip():  # NaN: a gap in a table
            return None
        return str(value)


def binary_gold(row: Row, column: str = "label") -> int:
    """Return 1, 0 or -1 (unknown: absent, empty or -1) from booleans, 0/1 or true/false."""
    value = row.values.get(column)
    word = "" if value is None else str(value).strip().lower()
    known = {"1": 1, "true": 1, "1.0": 1, "0": 0, "false": 0, "0.0": 0}
    known |= dict.fromkeys(("", "-1", "none", "null", "nan"), -1)
    if word not in known:
        raise InputError(
            f"{row.where}: gold {column!r} is {value!r}; write 1 or 0 (true or false), or omit it "
            "if it is unknown"
        )
    return known[word]


def require_path(task: str, path: PathLike | None) -> Path:
    """Return the path of a task that reads a file."""
    if path is None:
        raise InputError(f"task {task!r} needs a file: load_task({task!r}, 'data.jsonl')")
    return Path(path).expanduser()


def read_rows(source: PathLike) -> list[Row]:
    """Read all records of a file, by its suffix, or of ``hub:NAME[:split]``.

    Raises:
        InputError: Missing, empty, unreadable or malformed file (with the line).
    """
    if str(source).startswith(HUB_PREFIX):
        rows = _number(str(source), _hub_records(str(source)[len(HUB_PREFIX) :]), "row", 0)
    else:
        rows = _read_file(Path(source).expanduser())
    if not rows:
        raise InputError(f"{source} contains no rows; pass a file with one record per example")
    return rows


def read_column(source: PathLike, column: str) -> list[str]:
    """Read one text per record.

    Args:
        source: Text file (.txt) with one text per line, blank lines skipped; or what
            :func:`read_rows` reads, with the column.
        column: Name of the column.

    Raises:
        InputError: Same as :func:`read_rows`; a row (with its line) in which the column is missing
            or not text; or no text at all.
    """
    if str(source).lower().endswith(".txt"):
        lines = read_text(Path(source).expanduser()).split("\n")
        texts = [line for line in lines if line.strip()]
    else:
        rows = read_rows(source)
        for row in rows:
            row.check_text(column)
        texts = [row.text(column) for row in rows]
    if not texts:
        raise InputError(f"{source} contains no {column}s; write one per line")
    return texts


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, with line feeds as line ends.

    Raises:
        InputError: The file is missing, cannot be read, or is not UTF-8.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; pass the path of a file in it")
    if not path.exists():
        raise InputError(f"no file at {path.absolute()}; check the path")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 at byte {error.start}; convert it") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    return text


def _read_file(path: Path) -> list[Row]:
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"{path}: unknown file type {suffix!r}{suggest(suffix, _SUFFIXES)}")
    if suffix == ".parquet":
        return _number(path.name, _parquet_records(path), "row", 0)
    text = read_text(path)
    if suffix == ".csv":
        return list(_csv_rows(path.name, text))
    if text.lstrip().startswith("["):
        return _number(path.name, _json_list(path.name, text), "element", 0)
    return list(_json_lines(path.name, text))


def _number(name: str, records: Iterable[object], unit: str, start: int) -> list[Row]:
    rows = []
    for number, record in enumerate(records):
        where = f"{name}, {unit} {number + start}"
        rows.append(Row(number, where, _object(where, record)))
    return rows


def _object(where: str, record: object) -> Mapping[str, object]:
    if not isinstance(record, Mapping):
        raise InputError(
            f"{where}: a {type(record).__name__} instead of an object; write one JSON object with "
            "named columns per row"
        )
    return record


def _json_list(name: str, text: str) -> list[object]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(_bad_json(name, error.lineno, error)) from error
    return list(content)


def _json_lines(name: str, text: str) -> Iterator[Row]:
    number = 0
    for line_number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(_bad_json(name, line_number, error)) from error
        where = f"{name}, line {line_number}"
        yield Row(number, where, _object(where, record))
        number += 1


def _bad_json(name: str, line: int, error: json.JSONDecodeError) -> str:
    return f"{name}, line {line}: not JSON ({error.msg} at column {error.colno}); correct that line"


def _csv_rows(name: str, text: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for number, record in enumerate(reader):
            where = f"{name}, line {reader.line_num}"
            if None in record or None in record.values():
                raise InputError(
                    f"{where}: not {len(reader.fieldnames or ())} fields as in the header; quote "
                    "fields that contain commas"
                )
            yield Row(number, where, record)
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: {error}; correct that line") from error


def _parquet_records(path: Path) -> list[dict[str, object]]:
    if not path.is_file():
        raise InputError(f"no file at {path.absolute()}; check the path")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records: list[dict[str, object]] = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {first_line(error)}") from error
    return records


def _hub_records(name: str) -> list[dict[str, object]]:
    dataset, _, split = name.partition(":")
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "Hugging Face data sets need the package datasets; run `pip install icm-fast[datasets]`"
        ) from error
    try:
        records = datasets.load_dataset(dataset, split=split or "train")
    except Exception as error:  # the hub client raises many types; the user gets one line
        raise InputError(
            f"cannot load {HUB_PREFIX}{name}: {first_line(error)}; check the name and the network, "
            "or pass a local file"
        ) from error
    return [dict(record) for record in records]
