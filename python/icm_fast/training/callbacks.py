"""What a trainer of transformers or trl goes through, passed on to the training here."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments


class TrainingEvents(Protocol):
    """Hears of a training, after whatever the trainer itself does then."""

    def began(self) -> None:
        """All is in place, and no batch has been drawn."""

    def step_ended(self, step: int) -> None:
        """The weights were updated for the ``step``-th time; logs and checkpoints come later."""

    def logged(self, step: int, logs: dict[str, float]) -> None:
        """The trainer logged figures."""

    def saved(self, checkpoint: Path) -> None:
        """A checkpoint was written."""


class EventCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Passes events of a trainer on.

    Args:
        events: Who hears of them.
    """

    def __init__(self, events: TrainingEvents) -> None:
        self._events = events

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Pass on that the training begins."""
        self._events.began()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Pass on that a step has ended."""
        self._events.step_ended(int(state.global_step))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Pass on what is logged."""
        self._events.logged(int(state.global_step), logs or {})

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Pass on where a checkpoint is."""
        self._events.saved(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class MeasureLast(TrainerCallback):  # type: ignore[misc]
    """Measures the loss on held-out examples after the last step too, and keeps those weights."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        """Ask for it after the last step."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True
        return control
