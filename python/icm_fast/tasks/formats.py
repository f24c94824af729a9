"""Files as tables: JSON, JSONL, CSV, TSV (each also as .gz) and Parquet, with origins of rows."""

from __future__ import annotations

import csv
import gzip
import io
import stat
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from icm_fast.documents import parse_json
from icm_fast.errors import InputError, first_line, shown, suggest

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Record = tuple[str, Mapping[str, object]]
"""Where a row stands (file and line), and its values by column."""

GZIP_SUFFIX = ".gz"
MAX_UNPACKED_BYTES = 2**30
"""Most bytes that a .gz file may unpack to."""

MAX_BYTES = 2**33
"""Most bytes of a file as it lies on disk."""

_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_PANDAS_INDEX = "__index_level_"
_BATCH_ROWS = 2048
"""Rows of a Parquet file that are held at a time."""


def file_type(path: Path) -> str:
    """The suffix that tells the format, in lower case, without ``.gz``."""
    if path.suffix.lower() == GZIP_SUFFIX:
        path = path.with_suffix("")
    return path.suffix.lower()


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, unpacked if it is a .gz, with line feeds as line ends.

    Raises:
        InputError: The file is missing, cannot be read, or is not UTF-8.
    """
    require_data_file(path)
    try:
        content = _unpacked(path) if path.suffix.lower() == GZIP_SUFFIX else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} is not a whole gzip file: {first_line(error)}; pack it again"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = error.start + 3 * content.startswith(b"\xef\xbb\xbf")
        raise InputError(f"{path} is not UTF-8 at byte {place}; convert it") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def require_data_file(path: Path) -> None:
    """Raise InputError unless ``path`` is a file that can be read to its end; links are followed.

    A pipe may wait for ever, and a device such as /dev/zero never ends.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"no file at {path.absolute()}; check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a folder; pass the path of a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is a pipe or a device; write the data to a file")
    if status.st_size > MAX_BYTES:
        raise InputError(
            f"{path} has {status.st_size:,} bytes, but at most {MAX_BYTES:,} are read; split it"
        )


def _unpacked(path: Path) -> bytes:
    with gzip.open(path) as file:
        content = file.read(MAX_UNPACKED_BYTES + 1)
    if len(content) > MAX_UNPACKED_BYTES:
        raise InputError(
            f"{path} unpacks to more than {MAX_UNPACKED_BYTES:,} bytes; unpack it, or split it"
        )
    return content


class _LimitedGzip(gzip.GzipFile):
    """A gzip file that ends in an error once it has unpacked to too much."""

    unpacked = 0

    def read1(self, size: int = -1) -> bytes:
        content = super().read1(size)
        self.unpacked += len(content)
        if self.unpacked > MAX_UNPACKED_BYTES:
            raise OverflowError
        return content


def _lines(path: Path) -> Iterator[str]:
    """Yield what :func:`read_text` returns, line by line; no more of a file is held at a time.

    Raises:
        InputError: Same as :func:`read_text`, where the line in question is reached.
    """
    packed = path.suffix.lower() == GZIP_SUFFIX
    try:
        with (
            _LimitedGzip(path) if packed else open(path, "rb") as file,
            io.TextIOWrapper(file, encoding="utf-8-sig", newline=None) as text,
        ):
            yield from text
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, OverflowError):
        read_text(path)  # knows the place and the words
        raise


def _to_first_text(lines: Iterator[str]) -> Iterator[str]:
    """The blank lines at the beginning, and the first one that is not blank."""
    for line in lines:
        yield line
        if line.strip():
            return


def read_records(path: Path) -> Iterator[Record]:
    """Yield the rows of a file, whose format its suffix tells.

    Raises:
        InputError: Missing, unreadable or malformed file (with the line), or unknown suffix.
    """
    suffix = file_type(path)
    packed = path.suffix.lower() == GZIP_SUFFIX
    if suffix not in _SUFFIXES or (suffix == ".parquet" and packed):
        raise InputError(f"{path}: unknown file type {shown(suffix)}{suggest(suffix, _SUFFIXES)}")
    if suffix == ".parquet":
        return _parquet_records(path)
    require_data_file(path)
    lines = _lines(path)
    if suffix in _DELIMITERS:
        return _delimited_records(path.name, lines, _DELIMITERS[suffix])
    first = list(_to_first_text(lines))
    if first and first[-1].lstrip().startswith("["):
        return number(path.name, _json_list(path.name, read_text(path)), "element")
    return _json_lines(path.name, chain(first, lines))


def number(name: str, records: Iterable[object], unit: str) -> Iterator[Record]:
    """Yield records with their positions as origins."""
    for position, record in enumerate(records):
        yield _object(f"{name}, {unit} {position}", record)


def _object(where: str, record: object) -> Record:
    if not isinstance(record, Mapping):
        raise InputError(
            f"{where}: a {type(record).__name__} instead of an object; write one JSON object with "
            "named columns per row"
        )
    return where, record


def _json_list(name: str, text: str) -> Sequence[object]:
    content = parse_json(text, name)
    assert isinstance(content, list), "the text begins with a bracket"
    return content


def _json_lines(name: str, lines: Iterable[str]) -> Iterator[Record]:
    for line, part in enumerate(lines, start=1):
        if part.strip():
            content = parse_json(part.removesuffix("\n"), name, line=line)
            yield _object(f"{name}, line {line}", content)


def check_header(where: str, names: Sequence[str | None]) -> None:
    """Raise InputError if two columns have one name; columns without a name are not read."""
    twice = [name for name, n in Counter(names).items() if n > 1 and name]
    if twice:
        raise InputError(f"{where}: column {shown(twice[0])} occurs twice; rename one of them")


def _delimited_records(name: str, lines: Iterator[str], delimiter: str) -> Iterator[Record]:
    """Rows of CSV or TSV; quotes that do not close, or inside a field, are errors."""
    with long_fields():
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        named = True
        start = 1
        while True:
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise InputError(
                    f"{name}, line {start}: {error} in the row that begins here; correct its quotes"
                ) from error
            where, start = f"{name}, line {start}", reader.line_num + 1
            if fields is None:
                return
            if not fields:
                continue
            if header is None:
                header, named = fields, all(fields)
                check_header(where, header)
                continue
            if len(fields) != len(header):
                raise InputError(
                    f"{where}: not {len(header)} fields as in the header, but {len(fields)}; quote "
                    "fields that contain the separator"
                )
            cells = zip(header, fields, strict=True)
            yield where, dict(cells) if named else {key: value for key, value in cells if key}


@contextmanager
def long_fields() -> Iterator[None]:
    """Lift the csv module's limit of field lengths, which is process-wide, for a while."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _parquet_records(path: Path) -> Iterator[Record]:
    require_data_file(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # read_table would take columns from the names of the folders, such as label=1, too.
        file = pq.ParquetFile(path)
        check_header(str(path), file.schema_arrow.names)
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _not_parquet(path, error) from error
    return number(path.name, _parquet_rows(path, file), "row")


def _parquet_rows(path: Path, file: pq.ParquetFile) -> Iterator[dict[str, object]]:
    """The rows, a batch at a time, without pandas' index and with the names of classes."""
    import pyarrow as pa

    names = _class_names(file.schema_arrow)
    columns = [c for c in file.schema_arrow.names if not c.startswith(_PANDAS_INDEX)]
    try:
        for batch in file.iter_batches(_BATCH_ROWS):
            records = batch.select(columns).to_pylist()
            _name_classes(records, names)
            yield from records
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _not_parquet(path, error) from error


def _not_parquet(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is not a readable Parquet file: {first_line(error)}")


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the values of ClassLabel columns, as the package datasets notes them in Parquet."""
    noted = (schema.metadata or {}).get(b"huggingface")
    if noted is None:
        return {}
    content = parse_json(noted.decode("utf-8", "replace"), "Parquet metadata 'huggingface'")
    for key in ("info", "features"):
        content = content.get(key) if isinstance(content, dict) else None
    features = content if isinstance(content, dict) else {}
    return {
        column: list(feature["names"])
        for column, feature in features.items()
        if isinstance(feature, dict)
        and feature.get("_type") == "ClassLabel"
        and isinstance(feature.get("names"), list)
    }


def _name_classes(records: list[dict[str, object]], names: Mapping[str, Sequence[str]]) -> None:
    for record in records if names else ():
        for column, known in names.items():
            if column in record:
                record[column] = class_name(record[column], known)


def class_name(value: object, names: Sequence[str]) -> object:
    """The name of a ClassLabel's number; None for -1, which stands for "not labelled" there."""
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return None if value == -1 else names[value] if 0 <= value < len(names) else value
