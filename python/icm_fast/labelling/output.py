"""A table with more columns, written row by row to a file of any format."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Protocol

from icm_fast.errors import InputError, shown, suggest
from icm_fast.files import is_stdout, output_stream
from icm_fast.tasks.formats import GZIP_SUFFIX, file_type

Record = Mapping[str, object]

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LINES = (".jsonl", ".ndjson")
SUFFIXES = (*_DELIMITERS, *_LINES, ".json", ".parquet")
_BLOCK = 4096
"""Rows of one Parquet row group."""


class _Writer(Protocol):
    def __call__(self, file: IO[bytes], records: Iterator[Record], columns: Sequence[str]) -> None:
        """Write all records."""


def check_output(path: Path) -> None:
    """Raise InputError unless the suffix of an output names a format that can be written."""
    suffix = ".csv" if is_stdout(path) else file_type(path)
    packed = path.suffix.lower() == GZIP_SUFFIX
    if suffix not in SUFFIXES or (packed and suffix == ".parquet"):
        raise InputError(
            f"cannot write {path.name}: unknown file type {shown(suffix)}"
            f"{suggest(suffix, SUFFIXES)}"
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it")


def write_records(path: Path, records: Iterable[Record], columns: Sequence[str]) -> None:
    """Write records to a file, whose format its suffix tells; standard output gets CSV.

    The file is replaced when all is written; a link is followed, a device or pipe written to.

    Args:
        path: The file, also ``.gz``; ``-`` is standard output.
        records: Rows, consumed one by one.
        columns: Columns of tables; a row may lack some. JSON lines hold what a row has.

    Raises:
        InputError: Unknown format, values that the format cannot hold, or a file system that
            refuses.
    """
    check_output(path)
    write = _writer(".csv" if is_stdout(path) else file_type(path))
    with output_stream(path) as file, _packed(path, file) as target:
        write(target, iter(records), columns)


@contextmanager
def _packed(path: Path, file: IO[bytes]) -> Iterator[IO[bytes]]:
    if path.suffix.lower() != GZIP_SUFFIX:
        yield file
        return
    # Without a name and a time, so that equal tables are equal files.
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        yield packed  # type: ignore[misc]


def _writer(suffix: str) -> _Writer:
    if suffix in _DELIMITERS:

        def delimited(file: IO[bytes], records: Iterator[Record], columns: Sequence[str]) -> None:
            _write_delimited(file, records, columns, _DELIMITERS[suffix])

        return delimited
    return {".parquet": _write_parquet, ".json": _write_json}.get(suffix, _write_lines)


def _write_delimited(
    file: IO[bytes], records: Iterator[Record], columns: Sequence[str], delimiter: str
) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        writer.writerow([_cell(record.get(column)) for column in columns])
    text.flush()
    text.detach()


def _cell(value: object) -> object:
    """A value as a cell: lists and mappings as JSON, gaps as nothing."""
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None or value != value else value


def _write_lines(file: IO[bytes], records: Iterator[Record], columns: Sequence[str]) -> None:
    for record in records:
        file.write(_json(record).encode() + b"\n")


def _write_json(file: IO[bytes], records: Iterator[Record], columns: Sequence[str]) -> None:
    separator = b"[\n"
    for record in records:
        file.write(separator + _json(record).encode())
        separator = b",\n"
    file.write(b"\n]\n" if separator != b"[\n" else b"[]\n")


def _json(record: Record) -> str:
    content = {
        key: None if isinstance(value, float) and value != value else value
        for key, value in record.items()
    }
    return json.dumps(content, ensure_ascii=False, default=str)


def _write_parquet(file: IO[bytes], records: Iterator[Record], columns: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = list(islice(records, _BLOCK))
    try:
        table = _arrow(first, columns)
        # A column that is empty in the first rows has no type yet; text holds what may come.
        schema = pa.schema(
            [
                pa.field(f.name, pa.string() if pa.types.is_null(f.type) else f.type)
                for f in table.schema
            ]
        )
        with pq.ParquetWriter(file, schema) as writer:
            block = first
            while block:
                rows = [{column: record.get(column) for column in columns} for record in block]
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                block = list(islice(records, _BLOCK))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"a column holds values of several types, which Parquet cannot: {error}; write JSONL"
        ) from error


def _arrow(records: Sequence[Record], columns: Sequence[str]):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    return pa.Table.from_pylist([{c: record.get(c) for c in columns} for record in records])
