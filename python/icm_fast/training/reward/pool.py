"""Labelling a pool of unlabelled pairs with a reward model: streamed, durable, resumable."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, TypedDict

import numpy as np

from icm_fast import distributed
from icm_fast.engine.progress import Quiet
from icm_fast.errors import InputError
from icm_fast.files import (
    expanded,
    is_file,
    lock_folder,
    open_regular,
    reading,
    sync_folder,
    write_all,
    write_atomically,
    writing,
)
from icm_fast.files.fields import Fields, read_line, read_object
from icm_fast.identity import check_same
from icm_fast.tasks.rows import Row
from icm_fast.training.reward.model import POOL_FILE, POOL_RECORD, RewardModel
from icm_fast.training.reward.pairs import Pair
from icm_fast.types import Reporter

CHUNK = 64
"""Rows that are scored and made durable together. Which texts share a forward pass moves the last
bits of a reward, so a labelling resumes where a chunk begins."""

SKIPPED: Final = "skipped"

_PART = f".{POOL_FILE}.part"
_COLUMNS = (("response_1", "response_2"), ("choice", "choice_2"))
_FIX = "name the JSONL file of the pool"
_LABEL_AGAIN = "delete the file to label the pool again"


class LabelledRow(TypedDict, total=False):
    """A line of ``pool.jsonl``, as :class:`PoolLabels` describes it."""

    prompt: str
    chosen: str
    rejected: str
    probability: float
    rewards: list[float]
    swapped: bool
    skipped: str


class PoolCounts(TypedDict):
    """What ``pool.json`` records of a finished labelling."""

    n_rows: int
    n_skipped: int


@dataclass(frozen=True, slots=True)
class PoolRows:
    """How far the labelling of a pool is, as reporters show it.

    Attributes:
        done: Labelled rows.
        total: Rows of the pool.
    """

    done: int
    total: int

    def describe(self) -> str:
        """One line of figures."""
        return f"row {self.done} of {self.total}"


@dataclass(frozen=True, slots=True)
class PoolLabels:
    """A labelled pool.

    Attributes:
        path: ``pool.jsonl``, one line per row of the pool, in its order: ``prompt``, ``chosen``,
            ``rejected``, ``probability``, ``rewards`` (of chosen and rejected) and ``swapped``
            (whether the second response is the chosen one), or ``skipped`` with the reason.
        n_rows: Rows of the pool.
        n_skipped: Rows that bear no label: too long for the model, or both responses the same.
    """

    path: Path
    n_rows: int
    n_skipped: int

    def pairs(self) -> tuple[Pair, ...]:
        """The labelled pairs, in the order of the pool.

        Raises:
            InputError: A damaged line.
        """
        kept = (line for line in _lines(self.path) if SKIPPED not in line)
        return tuple(
            Pair(
                line.text("prompt"),
                line.text("chosen"),
                line.text("rejected"),
                probability=(p := line.number("probability", 0, 1)),
                confidence=max(p, 1 - p),
            )
            for line in kept
        )


def label_pool(
    model: RewardModel,
    pool: Path,
    folder: Path,
    *,
    soft: bool = True,
    progress: Reporter | None = None,
) -> PoolLabels:
    """Say for every row of a pool which response is better.

    The pool is read as a stream, so it may be of any size. An interrupted labelling resumes when
    called again, and ends with the same bytes as one that was never interrupted. Of several
    processes the main one labels, and the others wait.

    Args:
        model: The judge.
        pool: JSONL with the columns ``response_1``, ``response_2`` and perhaps ``prompt`` (or the
            authors' ``choice``, ``choice_2``, ``question``). Other columns are ignored.
        folder: Holds ``pool.jsonl`` when all is labelled, and ``pool.json``.
        soft: ``probability`` is the model's own; otherwise 1.
        progress: Shows how many rows are done.

    Raises:
        InputError: A malformed row (with its line), an empty pool, or a folder that holds the
            labels of another pool or model.
    """
    output = folder / POOL_FILE
    if expanded(pool).resolve() == output.resolve():
        raise InputError(f"{pool} is where the labels go; keep the pool in another folder")
    with progress or Quiet() as shown:
        counts = distributed.on_main(lambda: _label_once(model, pool, folder, soft, shown))
    return PoolLabels(output, **counts)


def _label_once(
    model: RewardModel, pool: Path, folder: Path, soft: bool, reporter: Reporter
) -> PoolCounts:
    """Label what is not labelled yet; return the counts of rows."""
    output = folder / POOL_FILE
    lock = lock_folder(folder)
    try:
        identity = {
            "pool_sha256": _file_digest(pool),
            "model_fingerprint": model.fingerprint,
            "model_computation": model.computation,
            "labels": "soft" if soft else "hard",
        }
        n_rows = 0 if is_file(output) else _count_rows(pool)
        if not is_file(output) and n_rows == 0:
            raise InputError(f"{pool} holds no rows; give one JSON object per line")
        counts = _open(folder, identity)
        if counts is None:
            if not is_file(output):
                _write_labels(model, pool, folder, soft, n_rows, reporter)
            counts = _count(output)
            _write_record(folder, {"identity": identity, **counts})
        return counts
    finally:
        os.close(lock)


def _open(folder: Path, identity: dict[str, str]) -> PoolCounts | None:
    """The counts in the record of the folder, which is made when absent; None until all is done."""
    path = folder / POOL_RECORD
    if not is_file(path):
        _write_record(folder, {"identity": identity})
    record = read_object(path, "delete it to label the pool again")
    check_same(folder, record.inner("identity").content, identity, "labelling of a pool")
    if "n_rows" not in record:
        return None
    return {"n_rows": record.integer("n_rows"), "n_skipped": record.integer("n_skipped")}


def _write_record(folder: Path, content: Mapping[str, object]) -> None:
    write_atomically(folder / POOL_RECORD, (json.dumps(content, indent=1) + "\n").encode())


def _write_labels(
    model: RewardModel, pool: Path, folder: Path, soft: bool, n_rows: int, reporter: Reporter
) -> None:
    part = folder / _PART
    with writing(part):
        descriptor = open_regular(part, os.O_RDWR | os.O_CREAT)
    try:
        n_done = _keep_whole_chunks(part, descriptor)
        rows = _pool_rows(pool)
        next(islice(rows, n_done, n_done), None)  # pass over what is labelled
        while chunk := list(islice(rows, CHUNK)):
            lines = _label(model, chunk, soft)
            with writing(part):
                write_all(descriptor, "".join(lines).encode())
                os.fsync(descriptor)
            n_done += len(chunk)
            reporter.update(PoolRows(n_done, n_rows))
    finally:
        os.close(descriptor)
    with writing(folder / POOL_FILE):
        os.replace(part, folder / POOL_FILE)
        sync_folder(folder)


def _keep_whole_chunks(part: Path, descriptor: int) -> int:
    """Cut off what an interrupted process left after its last whole chunk; return the rows kept."""
    n_rows = whole = position = 0
    with reading(part, _FIX), os.fdopen(open_regular(part, os.O_RDONLY), "rb") as file:
        for number, line in enumerate(file, start=1):
            position += len(line)
            if number % CHUNK == 0 and line.endswith(b"\n"):
                n_rows, whole = number, position
    with writing(part):
        os.ftruncate(descriptor, whole)
        os.lseek(descriptor, whole, os.SEEK_SET)
    return n_rows


def _label(model: RewardModel, rows: list[tuple[str, str, str]], soft: bool) -> list[str]:
    """One line for each row."""
    ids = [model.answer_ids(prompt, text) for prompt, *both in rows for text in both]
    fits = [len(one) <= model.max_context for one in ids]
    values = np.full(len(ids), np.nan)
    values[fits] = model.score_ids([one for one, fit in zip(ids, fits, strict=True) if fit])
    made = []
    for (prompt, first, second), (one, two) in zip(rows, values.reshape(-1, 2), strict=True):
        line: LabelledRow = {"prompt": prompt}
        if first == second:
            line[SKIPPED] = "both responses are the same"
        elif np.isnan(one + two):
            line[SKIPPED] = f"longer than the {model.max_context} tokens of the model"
        else:
            swapped = bool(two > one)
            chosen, rejected = (second, first) if swapped else (first, second)
            high, low = float(max(one, two)), float(min(one, two))
            line["chosen"], line["rejected"] = chosen, rejected
            line["probability"] = float(1 / (1 + np.exp(low - high))) if soft else 1.0
            line["rewards"], line["swapped"] = [high, low], swapped
        made.append(json.dumps(line, ensure_ascii=False) + "\n")
    return made


def _pool_rows(pool: Path) -> Iterator[tuple[str, str, str]]:
    """Prompt and both responses of every row."""
    with reading(pool, _FIX), expanded(pool).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _pool_row(f"{pool.name}, line {number}", line)


def _count_rows(pool: Path) -> int:
    """Rows of a pool, all of them checked: a bad one is reported before any time is spent."""
    return sum(1 for _ in _pool_rows(pool))


def _pool_row(where: str, line: bytes) -> tuple[str, str, str]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
        raise InputError(f"{where}: not JSON ({error}); correct that line") from error
    if not isinstance(values, dict):
        raise InputError(f"{where}: a {type(values).__name__} instead of an object with columns")
    row = Row(0, where, values)
    for column in ("prompt", "question", *(name for both in _COLUMNS for name in both)):
        row.check_text(column)
    columns = next((c for c in _COLUMNS if c[0] in values), _COLUMNS[0])
    prompt = row.optional("prompt") or row.optional("question") or ""
    return prompt, row.text(columns[0]), row.text(columns[1])


def _lines(path: Path) -> Iterator[Fields]:
    with reading(path, _FIX), os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        for number, line in enumerate(file, start=1):
            yield read_line(line, f"{path}, line {number}", _LABEL_AGAIN)


def _count(path: Path) -> PoolCounts:
    skipped = [SKIPPED in line for line in _lines(path)]
    return {"n_rows": len(skipped), "n_skipped": sum(skipped)}


def _file_digest(path: Path) -> str:
    with reading(path, _FIX), expanded(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
