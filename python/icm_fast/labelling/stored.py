"""A finished labelling, read again from its folder, and its table with it."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from icm_fast.errors import InputError
from icm_fast.files import expanded, is_file, read_file
from icm_fast.files.fields import Fields, checked, read_object
from icm_fast.labelling.evidence import DECIDED_BY, SHARES_FROM, Decision
from icm_fast.labelling.folder import DECISION_FILE, LABELLING_FILE, SETTINGS_FILE, SUMMARY_FILE
from icm_fast.labelling.review import CorrectedTable
from icm_fast.labelling.scan import scan_table
from icm_fast.labelling.tables import FileTable, Table, open_table
from icm_fast.labelling.task import LabelTask
from icm_fast.tasks.hub import HUB_PREFIX

_FIX = "run the labelling again"
_ARRAYS = {
    "labels": ("i4", 1),
    "confidence": ("f8", 1),
    "probabilities": ("f4", 2),
    "decided_by": ("i1", 1),
    "votes": ("i4", 1),
    "shares": ("f8", 1),
    "n_views": ("i8", 0),
    "shares_source": ("i8", 0),
}
"""Type and number of dimensions of each array of a stored decision."""

_UNREADABLE = (
    *(ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error),
    *(MemoryError, OverflowError, NotImplementedError, SyntaxError, RuntimeError),
)
"""What numpy and zipfile raise for archives that are none."""


@dataclass(frozen=True, slots=True)
class StoredLabelling:
    """What a folder of a finished labelling holds.

    Attributes:
        folder: The folder.
        table: The rows that were labelled, checked to be the same.
        task: What was asked, with its template; without the column of known labels.
        decision: What was found.
    """

    folder: Path
    table: Table
    task: LabelTask
    decision: Decision


def is_labelling(folder: Path) -> bool:
    """Whether a folder is one of a labelling."""
    return folder.is_dir() and is_file(folder / LABELLING_FILE)


def source_of(table: Table) -> str | None:
    """Where a table can be read again: a whole path or an address of the Hub; None if nowhere."""
    if isinstance(table, CorrectedTable):
        return source_of(table.table)
    if not isinstance(table, FileTable):
        return None
    if table.source.startswith(HUB_PREFIX):
        return table.source
    return str(expanded(table.source).absolute())


def packed_decision(decision: Decision) -> bytes:
    """A decision as the bytes of a NumPy archive, the same for equal decisions."""
    file = io.BytesIO()
    arrays = {
        name: np.asarray(getattr(decision, name), dtype=f"<{kind}")
        for name, (kind, _) in _ARRAYS.items()
    }
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def read_labelling(folder: Path, data: object = None) -> StoredLabelling:
    """Read a finished labelling and the table that it is of.

    Args:
        folder: Its folder.
        data: The table, where it did not come from a file; see :func:`icm_fast.label`.

    Raises:
        InputError: The folder is not one of a finished labelling, is damaged, or the table is
            missing or has changed.
    """
    if not is_labelling(folder):
        raise InputError(f"{folder} is not the folder of a labelling; pass one of icm-fast label")
    if not is_file(folder / SUMMARY_FILE) or not is_file(folder / DECISION_FILE):
        raise InputError(f"the labelling in {folder} is not finished; run the same command again")
    identity = read_object(folder / LABELLING_FILE, _FIX)
    settings = read_object(folder / SETTINGS_FILE, _FIX)
    task = _read_task(settings.inner("task"))
    if data is None:
        data = settings.optional_text("table")
    if data is None:
        raise InputError(
            f"the table of {folder} was in memory, not in a file; pass it to "
            "icm_fast.labelling.export_labelling(folder, format, data=...)"
        )
    table = open_table(data)
    scan = scan_table(table, task)
    if scan.digest != identity.text("data") or scan.n_rows != identity.integer("n_rows"):
        raise InputError(
            f"{table.name} has changed since it was labelled in {folder}; restore it, or label it "
            "again in another folder"
        )
    decision = read_decision(folder / DECISION_FILE, scan.n_rows, len(task.labels))
    return StoredLabelling(folder, table, task, decision)


def _read_task(fields: Fields) -> LabelTask:
    compare = fields.texts("compare") if "compare" in fields else None
    names = ("text", "claim", "template", "group", "answer", "instruction")
    texts = {name: fields.optional_text(name) for name in names}
    texts["separator"] = fields.text("separator")
    described = fields.inner("descriptions").content if "descriptions" in fields else {}

    def make() -> LabelTask:
        task = LabelTask(  # known labels and rules are in the decision already
            labels=tuple(fields.texts("labels")) if not texts["claim"] and not compare else (),
            compare=None if compare is None else tuple(compare),  # type: ignore[arg-type]
            descriptions=described,  # type: ignore[arg-type]
            **texts,  # type: ignore[arg-type]
        )
        if task.template is None:
            raise ValueError("template is missing")
        return task

    return checked(make, fields.where, _FIX)


def read_decision(path: Path, n_rows: int, n_labels: int) -> Decision:
    """Read a stored decision.

    Args:
        path: The archive.
        n_rows: Rows that it must be of.
        n_labels: Labels that it must be of.

    Raises:
        InputError: It is damaged, or of something else.
    """
    problem = f"{path} is damaged or of another labelling; {_FIX}"
    content = read_file(path, _FIX)
    try:
        arrays = _arrays(content)
    except _UNREADABLE as error:
        raise InputError(problem) from error
    special: dict[str, tuple[int, ...]] = {"probabilities": (n_rows, n_labels)}
    special |= {"shares": (n_labels,), "n_views": (), "shares_source": ()}
    shapes = {name: special.get(name, (n_rows,)) for name in _ARRAYS}
    if any(arrays[name].shape != shape for name, shape in shapes.items()) or not _sound(
        arrays, n_labels
    ):
        raise InputError(problem)
    numbers = {name: int(arrays.pop(name)) for name in ("n_views", "shares_source")}
    return Decision(**numbers, **arrays)  # type: ignore[arg-type]


def _arrays(content: bytes) -> dict[str, npt.NDArray[Any]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        # numpy stores them as they are: what unpacks to more than the file is not ours.
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("compressed")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in _ARRAYS}
    for name, (kind, n_dimensions) in _ARRAYS.items():
        if arrays[name].dtype != np.dtype(f"<{kind}") or arrays[name].ndim != n_dimensions:
            raise ValueError(name)
    return arrays


def _sound(arrays: Mapping[str, npt.NDArray[Any]], n_labels: int) -> bool:
    """Whether all values are such that a decision may have them."""
    limits = {
        "labels": (-1, n_labels - 1),
        "confidence": (0, 1 + 1e-6),
        "probabilities": (0, 1 + 1e-6),
        "decided_by": (0, len(DECIDED_BY) - 1),
        "votes": (0, 2**20),
        "shares": (0, 1 + 1e-6),
        "n_views": (1, 2**20),
        "shares_source": (0, len(SHARES_FROM) - 1),
    }
    # NaN is between no two numbers.
    return all(
        bool(np.all((arrays[name] >= low) & (arrays[name] <= high)))
        for name, (low, high) in limits.items()
    )


def stored_settings(
    table: Table, task: LabelTask, config: Mapping[str, object]
) -> dict[str, object]:
    """What ``settings.json`` holds: enough to read the table again and to ask the same."""
    return {"table": source_of(table), "task": task.to_dict(), "config": dict(config)}
