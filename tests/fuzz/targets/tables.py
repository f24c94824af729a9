"""Tables of every format: their bytes, and for packed formats the bytes inside."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

from icm_fast.errors import InputError
from icm_fast.tasks.registry import load_task
from icm_fast.tasks.rows import read_column, read_rows
from icm_fast.training.reward.pairs import read_pairs

from ..target import CorruptionError, Target

_SUFFIXES = ("csv", "tsv", "json", "jsonl", "ndjson", "parquet", "csv.gz", "jsonl.gz", "txt")
_TASKS = ("truthfulqa", "gsm8k-verification", "alpaca-preference", "author-gender")


class Tables(Target):
    """The first byte picks the format and whether it is packed afterwards; the rest is the file."""

    name = "tables"
    words = tuple(
        text.encode()
        for text in (
            *("question", "choice", "choice_2", "label", "consistency_id", "answer", "PAR1"),
            *('"label": 1', "\n\n", '""', ",,", "\t\t", "true", "1.0", "<NA>", "nan", "PAR1"),
        )
    )

    def read(self, data: bytes) -> None:
        """Read one table as rows, and as what tasks and trainings make of them."""
        kind = (data or b"\0")[0]
        suffix = _SUFFIXES[kind % len(_SUFFIXES)]
        content = data[1:]
        if kind >= 128 and suffix.endswith("gz"):
            content = gzip.compress(content, 1, mtime=0)
        path = Path(f"table.{suffix}")
        path.write_bytes(content)
        for task in _TASKS:
            self._refusable(load_task, task, path)
        self._refusable(load_task, "custom", path, template="{question}:", labels=[" a", " b"])
        self._refusable(read_pairs, path)
        self._refusable(read_column, path, "question")
        rows = read_rows(path)
        if suffix in ("jsonl", "ndjson") and kind < 128:
            wanted = [json.loads(line) for line in content.splitlines() if line.strip()]
            if len(rows) != len(wanted):
                raise CorruptionError(f"{len(rows)} rows of {len(wanted)} lines")
        if suffix == "csv.gz":
            whole = zlib.decompressobj(31)
            whole.decompress(content)
            if not whole.eof:
                raise CorruptionError("a gzip file that was cut is read")

    @staticmethod
    def _refusable(read: object, *arguments: object, **options: object) -> None:
        try:
            read(*arguments, **options)  # type: ignore[operator]
        except InputError as error:
            if "\n" in str(error).strip():
                raise
