"""Tables as people have them: files, Hub data, frames, lists. Read row by row, given back in kind.

A table is read as often as needed, always in the same order, and holds no more than its kind makes
it hold: files are read row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from icm_fast.errors import InputError, shown
from icm_fast.tasks.formats import class_name
from icm_fast.tasks.hub import HUB_PREFIX, class_names
from icm_fast.tasks.rows import Row, check_names_of_columns, stream_rows

Columns = Mapping[str, Sequence[object]]
"""New columns by name, one value per row of the table."""

_BLOCK = 4096
"""Rows of a frame that are turned into records at a time."""


class Table(Protocol):
    """Rows that can be read again and again.

    Attributes:
        name: What the rows are called in messages.
    """

    @property
    def name(self) -> str:
        """What the table is called in messages and default folders."""

    def rows(self) -> Iterator[Row]:
        """The rows from the first on."""

    def with_columns(self, columns: Columns) -> object:
        """The data as they were given, of the same kind, with more columns; nothing is changed in
        place.
        """


def open_table(data: object) -> Table:
    """The table that ``data`` is.

    Args:
        data: Path of a CSV, TSV, JSON or JSONL file (each also as .gz) or a Parquet file,
            ``hub:NAME``, a pandas or polars data frame, a ``datasets.Dataset``, or a list of
            dictionaries.

    Raises:
        InputError: It is something else, or columns have names that are not text.
    """
    for known, make in _KINDS:
        if known(data):
            return make(data)
    hint = ""
    if type(data).__name__ == "DatasetDict":
        hint = f"; pass one of its splits: {', '.join(map(str, list(data)))}"  # type: ignore[call-overload]
    elif type(data).__name__ == "LazyFrame":
        hint = "; call .collect() first"
    elif _from("ray", "Dataset")(data):
        hint = " of Ray, whose order may change from reading to reading; pass its .to_pandas()"
    raise InputError(
        "data must be a path, hub:NAME, a pandas or polars DataFrame, a datasets.Dataset or a list "
        f"of dictionaries, got {type(data).__name__}{hint}"
    )


@dataclass(frozen=True, slots=True)
class FileTable:
    """A file or a data set of the Hub, read row by row."""

    source: str

    @property
    def name(self) -> str:
        """The name of the file, or the address."""
        return self.source if self.source.startswith(HUB_PREFIX) else Path(self.source).name

    def rows(self) -> Iterator[Row]:
        """The rows from the first on."""
        return stream_rows(self.source)

    def with_columns(self, columns: Columns) -> list[dict[str, object]]:
        """One dictionary per row."""
        return _merged((dict(row.values) for row in self.rows()), columns)


@dataclass(frozen=True, slots=True)
class ListTable:
    """A list of dictionaries."""

    records: Sequence[Mapping[str, object]]
    name: str = "data"

    def rows(self) -> Iterator[Row]:
        """The rows from the first on."""
        return _rows("row", self.records)

    def with_columns(self, columns: Columns) -> list[dict[str, object]]:
        """New dictionaries with the keys of the old ones first."""
        return _merged(map(dict, self.records), columns)


@dataclass(frozen=True, slots=True)
class PandasTable:
    """A pandas data frame, whose index, types and order stay."""

    frame: Any
    name: str = "data frame"

    def rows(self) -> Iterator[Row]:
        """The rows from the first on; pandas' missing values become None."""
        import pandas as pd

        def records() -> Iterator[Mapping[str, object]]:
            for start in range(0, len(self.frame), _BLOCK):
                for record in self.frame.iloc[start : start + _BLOCK].to_dict("records"):
                    yield {
                        key: None if value is pd.NA or value is pd.NaT else value
                        for key, value in record.items()
                    }

        return _rows("row", records())

    def with_columns(self, columns: Columns) -> object:
        """A copy with more columns."""
        return self.frame.assign(**{name: list(values) for name, values in columns.items()})


@dataclass(frozen=True, slots=True)
class PolarsTable:
    """A polars data frame."""

    frame: Any
    name: str = "data frame"

    def rows(self) -> Iterator[Row]:
        """The rows from the first on."""
        return _rows("row", self.frame.iter_rows(named=True, buffer_size=_BLOCK))

    def with_columns(self, columns: Columns) -> object:
        """A new frame with more columns."""
        import polars as pl

        return self.frame.with_columns(
            [pl.Series(name, list(values)) for name, values in columns.items()]
        )


@dataclass(frozen=True, slots=True)
class DatasetTable:
    """A ``datasets.Dataset``; the numbers of ClassLabel columns are read as their names."""

    dataset: Any
    name: str = "dataset"

    def rows(self) -> Iterator[Row]:
        """The rows from the first on."""
        names = class_names(self.dataset.features)
        records = (
            {
                column: class_name(value, names[column]) if column in names else value
                for column, value in record.items()
            }
            for record in self.dataset
        )
        return _rows("row", records)

    def with_columns(self, columns: Columns) -> object:
        """A new data set with more columns; one of the same name is replaced."""
        dataset = self.dataset
        for name, values in columns.items():
            if name in dataset.column_names:
                dataset = dataset.remove_columns(name)
            dataset = dataset.add_column(name, list(values))
        return dataset


def _rows(unit: str, records: Iterable[Mapping[str, object]]) -> Iterator[Row]:
    for number, record in enumerate(records):
        where = f"{unit} {number}"
        if not isinstance(record, Mapping):
            raise InputError(f"{where}: a {type(record).__name__} instead of a dictionary")
        for column in record:
            if not isinstance(column, str):
                raise InputError(
                    f"{where}: the name of column {shown(column)} is not text; rename it"
                )
        check_names_of_columns(where, record)
        yield Row(number, where, record)


def _merged(records: Iterator[dict[str, object]], columns: Columns) -> list[dict[str, object]]:
    parts = zip(*columns.values(), strict=True)
    return [
        record | dict(zip(columns, values, strict=True))
        for record, values in zip(records, parts, strict=True)
    ]


def _from(module: str, name: str) -> Callable[[object], bool]:
    """Whether something is of a class of a package, or of a class made from it.

    The package is not imported for it.
    """

    def known(data: object) -> bool:
        return any(
            kind.__name__ == name and kind.__module__.partition(".")[0] == module
            for kind in type(data).__mro__
        )

    return known


def _is_path(data: object) -> bool:
    return isinstance(data, (str, Path)) or hasattr(data, "__fspath__")


_KINDS: tuple[tuple[Callable[[object], bool], Callable[[Any], Table]], ...] = (
    (_is_path, lambda data: FileTable(str(data))),
    (_from("pandas", "DataFrame"), PandasTable),
    (_from("polars", "DataFrame"), PolarsTable),
    (_from("datasets", "Dataset"), DatasetTable),
    (lambda data: isinstance(data, (list, tuple)), ListTable),
)
