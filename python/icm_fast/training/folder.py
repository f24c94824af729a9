"""The folder of a training: its identity, its checkpoints, its result."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, TypedDict

from icm_fast import distributed
from icm_fast.errors import InputError
from icm_fast.files import (
    expanded,
    is_file,
    lock_folder,
    open_regular,
    refuse_links,
    share_by_umask,
    sync_folder,
    write_atomically,
    writing,
)
from icm_fast.files.fields import read_object
from icm_fast.identity import check_same
from icm_fast.model.adapters import TUNING_FILE, read_tuning
from icm_fast.runs.provenance import versions
from icm_fast.training.chat import FORMATS, PLAIN

CHECKPOINTS = "checkpoints"
_COMPLETE = "complete.json"
_VERSION = "_version"
_DIGITS = 18
"""Of a step's number; Python refuses to read thousands of them."""


@dataclass(frozen=True, slots=True)
class TuningState:
    """How far a training has come.

    Attributes:
        losses: Mean loss of each step, natural log.
        seconds: Time spent on these steps, earlier processes included.
        best_step: The step whose weights are kept; None where nothing is held out.
        best_loss: Mean loss on held-out examples after that step, natural log.
    """

    losses: tuple[float, ...] = ()
    seconds: float = 0.0
    best_step: int | None = None
    best_loss: float | None = None


class _Stored(TypedDict):
    """A :class:`TuningState` in JSON."""

    losses: list[float]
    seconds: float
    best_step: int | None
    best_loss: float | None


class _Checkpoint(_Stored):
    path: str


class TuningFolder:
    """Reads and writes one folder, which is locked until the ``with`` block ends.

    The main process locks, reads and writes; the others wait and receive what it found.

    Args:
        folder: Created when absent.
        identity: What must be the same for a training to resume: settings, data, model.
        record: Name of the file with identity and result.

    Raises:
        InputError: The folder holds another fine-tuning, is in use, or cannot be written.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, object], *, record: str = TUNING_FILE
    ) -> None:
        self.folder = folder
        self.checkpoints = folder / CHECKPOINTS
        self._identity = dict(identity)
        self._record = folder / record
        self._lock: int | None = None
        differs = distributed.on_main(self._open) != self._identity
        if distributed.summed([float(differs)])[0]:
            self._close()
            raise InputError(
                f"the processes that train in {folder} disagree on settings, data or model; start "
                "all of them with the same command, files and packages"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def _open(self) -> dict[str, object]:
        """Lock the folder and check what it holds; return its identity."""
        self._lock = lock_folder(self.folder)
        try:
            if is_file(self._record):
                content = read_tuning(self._record)
                stored, wanted = content["identity"], self._identity
                if "losses" in content:  # a finished training is only loaded, by any version
                    stored, wanted = _without_versions(stored), _without_versions(wanted)
                check_same(self.folder, stored, wanted, "fine-tuning")
            else:
                self._write({})
        except BaseException:
            self._close()
            raise
        return self._identity

    def _close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def scratch(self) -> Path | None:
        """Where to write what :meth:`put` moves here: beside the checkpoints, which are dropped.

        None in processes that are not the main one, for the temporary folder of the system.
        """
        return self.checkpoints if distributed.is_main() else None

    def result(self) -> TuningState | None:
        """Losses and seconds of a training that is finished, otherwise None."""
        found = distributed.on_main(self._result)
        return None if found is None else _state(found)

    def _result(self) -> _Stored | None:
        content = read_tuning(self._record)
        if "losses" not in content:
            return None
        self._drop_checkpoints()  # left by a process that was interrupted inside finish()
        return {
            "losses": content["losses"],
            "seconds": content["seconds"],
            "best_step": content.get("best_step"),
            "best_loss": content.get("best_loss"),
        }

    def last_checkpoint(self) -> tuple[Path, TuningState] | None:
        """The newest complete checkpoint; incomplete ones are deleted."""
        found = distributed.on_main(self._last_checkpoint)
        if found is None:
            return None
        return Path(found["path"]), _state(found)

    def _last_checkpoint(self) -> _Checkpoint | None:
        with writing(self.checkpoints):
            self.checkpoints.mkdir(exist_ok=True)
        best: tuple[int, Path] | None = None
        refuse_links(self.checkpoints)
        for path in self.checkpoints.glob("checkpoint-*"):
            number = path.name.removeprefix("checkpoint-")
            if not (path.is_dir() and number.isascii() and number.isdecimal()):
                raise InputError(f"{path} is not a checkpoint of a training; remove it")
            step = int(number[:_DIGITS])
            refuse_links(path)
            if not is_file(path / _COMPLETE):
                shutil.rmtree(path)
            elif best is None or step > best[0]:
                best = (step, path)
        if best is None:
            return None
        content = read_object(best[1] / _COMPLETE, f"delete the folder {best[1]}")
        losses, seconds = content.numbers("losses"), content.number("seconds", 0)
        return {
            "path": str(best[1]),
            "losses": losses,
            "seconds": seconds,
            "best_step": None,  # the trainer's own state has it
            "best_loss": None,
        }

    def put(self, name: str, made: Path) -> None:
        """Move the folder ``made`` of the main process to ``name`` in this folder."""
        distributed.on_main(lambda: self._put(name, made))

    def _put(self, name: str, made: Path) -> None:
        target = self.folder / name
        with writing(target):
            share_by_umask(made)
            sync_files(made)
            if target.exists():
                shutil.rmtree(target)  # left by a process that was interrupted before finish()
            os.replace(made, target)
            sync_folder(self.folder)

    def finish(self, result: Mapping[str, object]) -> None:
        """Record the result, which marks the training as finished, and drop the checkpoints."""
        distributed.on_main(lambda: self._finish(result))

    def _finish(self, result: Mapping[str, object]) -> None:
        self._write(result)
        self._drop_checkpoints()

    def _drop_checkpoints(self) -> None:
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _write(self, result: Mapping[str, object]) -> None:
        content = {"identity": self._identity, **result}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self._record, text.encode())


def version_keys(packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages for an identity: an unfinished training resumes only with the same."""
    found = versions(packages)
    return {f"{name}{_VERSION}": found[name] for name in packages}


def _without_versions(identity: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in identity.items() if not name.endswith(_VERSION)}


def recorded_format(model: object) -> str:
    """How a model reads prompts, as the folder of its training recorded it; ``plain`` otherwise.

    Args:
        model: What the user names a model with.
    """
    if not isinstance(model, str | os.PathLike):
        return PLAIN
    record = expanded(model) / TUNING_FILE
    if not is_file(record):
        return PLAIN
    identity = read_tuning(record)["identity"]
    config = identity.get("config")
    settings = {**identity, **(config if isinstance(config, dict) else {})}
    format = settings.get("format")
    return format if isinstance(format, str) and format in FORMATS else PLAIN


def _state(stored: _Stored) -> TuningState:
    return TuningState(
        tuple(stored["losses"]), stored["seconds"], stored["best_step"], stored["best_loss"]
    )


def mark_complete(checkpoint: Path, state: TuningState) -> None:
    """Make a checkpoint durable, then mark it; without the mark it counts as incomplete."""
    distributed.barrier()  # each process writes its random states there
    distributed.on_main(lambda: _mark(checkpoint, state))


def _mark(checkpoint: Path, state: TuningState) -> None:
    with writing(checkpoint):
        sync_files(checkpoint)
    write_atomically(checkpoint / _COMPLETE, json.dumps(asdict(state)).encode())


def sync_files(folder: Path) -> None:
    """Make the files of ``folder`` durable."""
    for path in folder.iterdir():
        if path.is_file():
            descriptor = open_regular(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    sync_folder(folder)
