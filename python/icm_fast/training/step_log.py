"""``steps.jsonl``: the figures of every step of a training, while it runs and afterwards."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from icm_fast import distributed
from icm_fast.errors import InputError
from icm_fast.files import is_file, json_lines, read_file, write_atomically, writing
from icm_fast.files.fields import Fields, read_line
from icm_fast.tracking import RunTracking, Step

STEPS_FILE = "steps.jsonl"

_HELD_OUT = "eval_"

Line = dict[str, float]
"""``step`` (from 1), and what was measured then; see :class:`StepLog`."""


class StepLog:
    """Appends lines to the file of a folder; without a folder, lines go nowhere.

    A line of a step has ``loss`` (natural log), ``learning_rate``, ``grad_norm`` before it is
    bounded, and, as far as the training has them, ``accuracy`` and ``margin``. A line of a
    measurement on held-out examples has the same names after ``eval_``.

    The main process reads and writes; a training that resumes drops the lines of steps that were
    lost.

    Args:
        folder: Of the training.
        n_done: Steps that are not taken again.
        tracking: Receives the figures, too: those of steps as ``train``, others as ``eval``.
    """

    def __init__(
        self, folder: Path | None, n_done: int, tracking: RunTracking | None = None
    ) -> None:
        self._tracking = tracking
        self._file: BinaryIO | None = None
        if folder is not None:
            path = folder / STEPS_FILE
            distributed.on_main(lambda: self._open(path, n_done))

    def _open(self, path: Path, n_done: int) -> None:
        kept = [line for line in _read(path) if line.number("step", 0) <= n_done]
        write_atomically(path, json_lines(line.content for line in kept))
        with writing(path):
            self._file = path.open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, line: Line) -> None:
        """Append a line, which others can read at once."""
        if self._file is not None:
            # JSON has no infinity, which a norm of gradients may be.
            self._file.write(json_lines([{k: v for k, v in line.items() if math.isfinite(v)}]))
            self._file.flush()
        if self._tracking is not None:
            figures = {name: value for name, value in line.items() if name != "step"}
            held_out = any(name.startswith(_HELD_OUT) for name in figures)
            names = {name.removeprefix(_HELD_OUT): value for name, value in figures.items()}
            stream = "eval" if held_out else "train"
            self._tracking.report(Step(stream, int(line["step"]), names))


def read_steps(folder: Path) -> list[Line]:
    """The lines of a training's folder, in the order of its steps.

    Raises:
        InputError: There is no such file, or one that holds something else than numbers.
    """
    path = folder / STEPS_FILE
    if not is_file(path):
        raise InputError(f"{folder} holds no {STEPS_FILE}, so its training recorded no steps")
    return [{name: line.number(name) for name in line.content} for line in _read(path)]


def _read(path: Path) -> list[Fields]:
    """The whole lines of the file; a process that was killed may have left part of one."""
    if not is_file(path):
        return []
    fix = f"delete {path}"
    whole, _, _ = read_file(path, fix).rpartition(b"\n")
    lines = whole.split(b"\n") if whole else []
    return [read_line(line, f"{path}, line {k}", fix) for k, line in enumerate(lines, start=1)]
