"""A step with its figures, what hears of it, and what a tracker is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Setting = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run, in figures alone: no text of the data, and no label.

    Attributes:
        stream: What steps: ``search``; ``rows`` and ``core-1`` (``core-2``, ...) of a labelling,
            and its ``result``; ``train``, ``eval`` and ``held_out`` of a training. Those of the
            assistant and of an experiment have the name of their part before them.
        number: Its number within the stream, rising from call to call; a search counts the
            labellings that its engine asked for, a training its updates, ``rows`` the prompts.
        figures: Finite numbers by name, such as ``utility`` or ``loss``.
        replayed: Whether an interrupted search repeats a step from its stored scores.
    """

    stream: str
    number: int
    figures: Mapping[str, float]
    replayed: bool = False


StepCallback = Callable[[Step], None]
"""Hears of every step that a call goes through; what it raises ends the call."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker is told of a run before its first step.

    Attributes:
        kind: ``search``, ``labelling``, ``sft``, ``dpo``, ``reward``, ``rl``, ``assistant`` or
            ``experiment``.
        name: Name of its folder, or its kind.
        folder: Its folder; None where it has none.
        settings: Settings that are numbers, words or switches.
        handle: What the tracker called this run in an earlier process; None in a new run.
    """

    kind: str
    name: str
    folder: Path | None
    settings: Mapping[str, Setting]
    handle: str | None = None


class Tracker(Protocol):
    """An open run of one tracker.

    Attributes:
        handle: Finds the same run again in a later process.
    """

    handle: str

    def log(self, stream: str, number: int, figures: Mapping[str, float]) -> None:
        """Record the figures of a step, under the names ``stream/figure``."""

    def close(self, failed: bool) -> None:
        """End the run, perhaps by an exception, and send what is left."""
