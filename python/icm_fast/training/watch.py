"""What follows a training from outside: trackers, and callbacks of transformers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icm_fast.errors import InputError, shown
from icm_fast.model.quantised import import_before_others
from icm_fast.tracking import RunTracking, TrackLike, tracked
from icm_fast.training.config import TrainingConfig

if TYPE_CHECKING:
    from transformers import TrainerCallback


@dataclass(frozen=True, slots=True)
class Watch:
    """What follows a training.

    Attributes:
        tracking: Receives the figures of its steps; None for none.
        callbacks: Given to its trainer as they are, after the project's own.
    """

    tracking: RunTracking | None = None
    callbacks: tuple[TrainerCallback, ...] = ()


@contextmanager
def watching(
    track: TrackLike,
    callbacks: Sequence[TrainerCallback],
    folder: str | os.PathLike[str] | None,
    kind: str,
    config: TrainingConfig,
    warn: Callable[[str], None],
) -> Iterator[Watch]:
    """Follow a training until the block ends.

    Args:
        track: Where steps are reported.
        callbacks: Callbacks of transformers.
        folder: Of the training.
        kind: ``sft``, ``dpo``, ``reward`` or ``rl``.
        config: Settings of the training.
        warn: Shows a warning.

    Raises:
        InputError: Something else than a callback, or a tracker that cannot be used.
    """
    for one in callbacks:
        if not _is_callback(one):
            raise InputError(
                f"callbacks take objects of transformers.TrainerCallback, got {shown(one)}; a "
                "function of each step is what track takes"
            )
    with tracked(track, folder, kind, config.to_dict(), warn) as tracking:
        yield Watch(tracking, tuple(callbacks))


def _is_callback(one: object) -> bool:
    import_before_others()  # transformers imports peft with its callbacks
    from transformers import TrainerCallback

    return isinstance(one, TrainerCallback)
