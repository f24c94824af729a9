"""The runs below a folder: what each is, how far it is, and what it cost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from icm_fast.errors import InputError
from icm_fast.files import is_file, is_locked, reading
from icm_fast.files.fields import Fields, read_object
from icm_fast.labelling.folder import CORES, LABELLING_FILE
from icm_fast.labelling.folder import SUMMARY_FILE as LABELLING_SUMMARY
from icm_fast.labelling.stored import is_labelling
from icm_fast.labelling.training_set import labelling_model
from icm_fast.reports.trainings import RECORDS
from icm_fast.runs.config import IDENTITY, read_config
from icm_fast.runs.store import CONFIG_FILE, read_summary
from icm_fast.runs.verdict import verdict_level

FINISHED, INTERRUPTED, RUNNING, DAMAGED = "finished", "interrupted", "running", "damaged"
_DEPTH = 6
"""Folders within folders in which runs are looked for."""
_FIX = "run the same command again"
_EXAMPLES = ("n_examples", "n_pairs", "n_prompts")
_TOKENS = "n_tokens_forwarded"
_INSIDE = frozenset((CORES, "views", "checkpoints", "adapter", "model", "hub"))
"""Folders inside a run that hold parts of it, and no other run."""


@dataclass(frozen=True, slots=True)
class ListedRun:
    """One folder of a run.

    Attributes:
        folder: The folder.
        kind: ``search``, ``labelling`` or ``training``.
        state: ``finished``, ``interrupted``, ``running`` or ``damaged``.
        n_examples: Examples, rows, pairs or prompts; None where they are unknown.
        n_tokens: Tokens that the model forwarded; None where they were not recorded.
        seconds: Wall-clock seconds; None where they were not recorded.
        model: Name of the model; None where it is unknown.
        verdict: ``trust``, ``doubt`` or ``reject``; None where there is no verdict.
        problem: What is wrong with a damaged folder; otherwise empty.
    """

    folder: Path
    kind: str
    state: str
    n_examples: int | None = None
    n_tokens: int | None = None
    seconds: float | None = None
    model: str | None = None
    verdict: str | None = None
    problem: str = ""


def list_runs(folder: Path) -> list[ListedRun]:
    """All runs in a folder and below it, by their paths.

    Symbolic links are not followed. Gold is not read: how well labels agree with it is what
    ``icm-fast report --gold`` and ``evaluate run`` say.

    Raises:
        InputError: There is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name one that holds runs")
    return list(_below(folder, _DEPTH))


def _below(folder: Path, depth: int) -> Iterator[ListedRun]:
    reader = _reader(folder)
    if reader is not None:
        yield _listed(folder, *reader)
    if depth == 0:
        return
    try:
        with reading(folder, "make it readable"):
            inner = sorted(
                entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)
            )
    except InputError:
        return  # a folder of somebody else, below one that was named
    for name in inner:
        if not name.startswith(".") and (reader is None or name not in _INSIDE):
            yield from _below(folder / name, depth - 1)


_Reader = Callable[[Path], ListedRun]


def _reader(folder: Path) -> tuple[str, _Reader] | None:
    """What a folder is of, and who reads it; None for one of no run."""
    if is_labelling(folder):
        return "labelling", _labelling
    if is_file(folder / CONFIG_FILE):
        return "search", _search
    if any(is_file(folder / name) for name in RECORDS):
        return "training", _training
    return None


def _listed(folder: Path, kind: str, reader: _Reader) -> ListedRun:
    try:
        return reader(folder)
    except InputError as error:
        return ListedRun(folder, kind, DAMAGED, problem=str(error))


def _state(folder: Path, finished: bool) -> str:
    if is_locked(folder):
        return RUNNING
    return FINISHED if finished else INTERRUPTED


def _search(folder: Path) -> ListedRun:
    content = read_config(folder / CONFIG_FILE)
    summary = read_summary(folder)
    return ListedRun(
        folder,
        "search",
        _state(folder, summary is not None),
        n_examples=content[IDENTITY]["n_examples"],
        n_tokens=None if summary is None else _whole(summary, _TOKENS),
        seconds=None if summary is None else float(summary["seconds"]),
        model=str(content["model"]),
        verdict=None if summary is None else verdict_level(summary),
    )


def _labelling(folder: Path) -> ListedRun:
    identity = read_object(folder / LABELLING_FILE, _FIX)
    path = folder / LABELLING_SUMMARY
    summary = read_object(path, _FIX) if is_file(path) else None
    return ListedRun(
        folder,
        "labelling",
        _state(folder, summary is not None),
        n_examples=identity.integer("n_rows"),
        n_tokens=None if summary is None else summary.integer(_TOKENS),
        seconds=None if summary is None else summary.number("seconds", 0),
        model=labelling_model(folder),
        verdict=None if summary is None else verdict_level(summary.content),
    )


def _training(folder: Path) -> ListedRun:
    path = next(folder / name for name in RECORDS if is_file(folder / name))
    record = read_object(path, _FIX)
    identity: Fields = record.inner("identity")
    finished = "losses" in record
    return ListedRun(
        folder,
        "training",
        _state(folder, finished),
        n_examples=next((identity.integer(n) for n in _EXAMPLES if n in identity), None),
        n_tokens=record.integer("n_tokens") if "n_tokens" in record else None,
        seconds=record.number("seconds", 0) if finished else None,
    )


def _whole(content: Mapping[str, object], name: str) -> int | None:
    value = content.get(name)
    return value if isinstance(value, int) else None
