"""From what users ask for to the open trackers of one run."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from threading import RLock
from types import TracebackType
from typing import Self

from icm_fast.distributed import is_main
from icm_fast.errors import InputError, shown, suggest
from icm_fast.files import expanded
from icm_fast.files.text import printable, without_secrets
from icm_fast.tracking.positions import Positions
from icm_fast.tracking.step import Setting, Step, StepCallback, TrackedRun, Tracker
from icm_fast.tracking.trackers import TRACKERS, require_package

_LONGEST = 250
"""Characters of a setting that every tracker takes."""


@dataclass(frozen=True, slots=True)
class Tracking:
    """Where the steps of a run are reported.

    Attributes:
        report_to: Names of trackers: ``tensorboard``, ``wandb``, ``trackio``, ``mlflow`` or
            ``jsonl``.
        on_step: Called with every step.

    Raises:
        InputError: An unknown tracker, or one whose package is not installed.
    """

    report_to: Sequence[str] = ()
    on_step: StepCallback | None = None

    def __post_init__(self) -> None:
        if isinstance(self.report_to, str):
            raise InputError(f"report_to must be a list, got {shown(self.report_to)}")
        object.__setattr__(self, "report_to", tuple(dict.fromkeys(self.report_to)))
        for name in self.report_to:
            if name not in TRACKERS:
                raise InputError(f"unknown tracker {shown(name)}{suggest(str(name), TRACKERS)}")
            require_package(name)


TrackLike = Tracking | StepCallback | None
"""What functions take: where steps are reported, or what is called with each of them."""


def tracked(
    track: TrackLike,
    folder: str | os.PathLike[str] | None,
    kind: str,
    settings: Mapping[str, object],
    warn: Callable[[str], None],
) -> RunTracking:
    """The tracking of one run, to be entered; trackers open at its first step.

    Args:
        track: What the user asked for.
        folder: Of the run.
        kind: See :class:`~icm_fast.tracking.step.TrackedRun`.
        settings: Of the run; those that are numbers, switches or words are reported.
        warn: Shows a warning.
    """
    if track is None:
        track = Tracking()
    elif not isinstance(track, Tracking):
        track = Tracking(on_step=track)
    path = None if folder is None else expanded(folder)
    name = kind if path is None else path.resolve().name or kind
    return RunTracking(track, TrackedRun(kind, printable(name), path, plain(settings)), warn)


def plain(settings: Mapping[str, object]) -> dict[str, Setting]:
    """The settings that are numbers, switches or words, without passwords in addresses."""
    found: dict[str, Setting] = {}
    for name, value in settings.items():
        if isinstance(value, bool | int | float):
            found[name] = value
        elif isinstance(value, str):
            found[name] = printable(without_secrets(value))[:_LONGEST]
    return found


class RunTracking:
    """Reports the steps of one run: to the callback always, to a tracker each step once.

    A tracker that fails while the run goes is left out with a warning: a search of hours does not
    end because a server is away.
    """

    def __init__(self, track: Tracking, run: TrackedRun, warn: Callable[[str], None]) -> None:
        self._track = track
        self._run = run
        self._warn = warn
        self._positions: Positions | None = None
        self._open: dict[str, Tracker] = {}
        self._left_out: set[str] = set()
        self._reporting = RLock()  # work side by side reports from several threads
        # Trainings switch trackers off in the environment, for the sake of the packages they use.
        self._environment = dict(os.environ)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, tracker in list(self._open.items()):
            with self._surviving(name), redirect_stdout(sys.stderr):
                tracker.close(error is not None)
        self._open = {}

    def report(self, step: Step) -> None:
        """Report a step; only the main process of several does.

        Raises:
            InputError: A tracker cannot be opened, or the folder cannot be written.
        """
        if not is_main():
            return
        with self._reporting:
            self._report_all(step)

    def _report_all(self, step: Step) -> None:
        if self._track.on_step is not None:
            self._track.on_step(step)
        figures = {k: float(v) for k, v in step.figures.items() if math.isfinite(v)}
        for name in self._track.report_to:
            if name not in self._left_out and figures:
                self._report(name, step, figures)

    def _report(self, name: str, step: Step, figures: Mapping[str, float]) -> None:
        if self._positions is None:
            self._positions = Positions(self._run.folder)
        position = self._positions.of(name)
        if step.number <= position.steps.get(step.stream, -1):
            return
        tracker = self._open.get(name) or self._opened(name, self._positions)
        position.steps[step.stream] = step.number
        self._positions.write()
        with self._surviving(name):
            tracker.log(step.stream, step.number, figures)

    def _opened(self, name: str, positions: Positions) -> Tracker:
        position = positions.of(name)
        run = TrackedRun(
            self._run.kind, self._run.name, self._run.folder, self._run.settings, position.handle
        )
        try:
            with _environment(self._environment), redirect_stdout(sys.stderr):
                tracker = TRACKERS[name](run)
        except InputError:
            raise
        except Exception as error:  # whatever a foreign package raises
            raise InputError(
                f"cannot report to {name}: {_one_line(error)}; set it up, or leave it out"
            ) from error
        self._open[name] = tracker
        position.handle = tracker.handle
        return tracker

    @contextmanager
    def _surviving(self, name: str) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # whatever a foreign package raises
            self._left_out.add(name)
            self._warn(f"{name} failed and receives nothing more: {_one_line(error)}")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a tracked run, such as a stage or a cell: its streams stand below its name.

    It is what searches and trainings call with each step; the positions of the whole run see to it
    that no tracker receives a step twice.

    Attributes:
        tracking: Of the whole run.
        name: Of the part, such as ``seed-0/search``.
    """

    tracking: RunTracking
    name: str

    def __call__(self, step: Step) -> None:
        """Report a step of the part."""
        self.tracking.report(replace(step, stream=f"{self.name}/{step.stream}"))


def part_of(track: TrackLike, name: str) -> TrackLike:
    """What the part ``name`` of a run reports to: a part of a part, and anything else as it is."""
    return Part(track.tracking, f"{track.name}/{name}") if isinstance(track, Part) else track


def _one_line(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return printable(without_secrets(text))[:_LONGEST]


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """The variables of the process as they were, and afterwards as they are."""
    present = dict(os.environ)
    _set_environment(wanted)
    try:
        yield
    finally:
        _set_environment(present)


def _set_environment(wanted: Mapping[str, str]) -> None:
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
