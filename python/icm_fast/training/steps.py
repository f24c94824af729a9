"""One pass over batches that are fixed in advance, for any trainer of transformers or trl."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from icm_fast import distributed
from icm_fast.engine.progress import Stopwatch
from icm_fast.errors import InputError
from icm_fast.model.adapters import import_peft
from icm_fast.model.loaded import LoadedModel
from icm_fast.training.config import TrainingConfig
from icm_fast.training.folder import TuningState, mark_complete
from icm_fast.types import Reporter

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import Trainer, TrainingArguments
else:
    Trainer = object  # transformers' own one takes seconds to import; subclasses inherit it

Row = TypeVar("Row")
Arguments = TypeVar("Arguments", bound="TrainingArguments")

Batch = dict[str, torch.Tensor]
"""What a model receives in a step."""

Batches = Sequence[Sequence[int]]
"""Rows of every batch of every epoch."""

Loss = Callable[[torch.nn.Module, Batch], torch.Tensor]
"""Mean loss of a collated batch, from the model (perhaps peft's, around it) and that batch."""


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """A step of a training, as reporters show it.

    Attributes:
        done: Its number, from 1.
        total: Number of steps.
        figure: What ``value`` is: ``loss`` or ``reward``.
        value: Mean over the step.
    """

    done: int
    total: int
    figure: str
    value: float

    def describe(self) -> str:
        """One line of figures."""
        value = f"{self.value:.3f}" if self.figure == "loss" else f"{self.value:+.3f}"
        return f"step {self.done} of {self.total}, {self.figure} {value}"


class OwnTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """To be mixed into a trainer of transformers or trl: silent, resumable, and without DDP.

    Args:
        reporter: Shown after each step, in the main process.
        arguments: Arguments of the trainer.
    """

    def __init__(self, *, reporter: Reporter, **arguments: object) -> None:
        from transformers.trainer_callback import PrinterCallback

        from icm_fast.training.callbacks import EventCallback

        super().__init__(**arguments)
        self._reporter = reporter
        self.remove_callback(PrinterCallback)
        self.add_callback(EventCallback(self))
        for adapter in getattr(self.model, "peft_config", {}).values():
            # Otherwise every checkpoint would ask the hub for the configuration of the base.
            adapter.base_model_name_or_path = ""
        if distributed.world_size() > 1:
            # DDP averages over processes, whose parts of a batch may differ in size; it sees only
            # what passes through the forward of the whole model; and it fails where an expert has
            # no token. The subclasses sum the gradients themselves.
            prepare = self.accelerator.prepare_model
            self.accelerator.prepare_model = partial(prepare, evaluation_mode=True)

    def create_model_card(self, *_: object, **__: object) -> None:
        """Write none: the cards of trl ask the hub about the base."""

    def began(self) -> None:
        """Do nothing before the first step."""

    def step_ended(self, step: int) -> None:
        """Do nothing after a step."""

    def logged(self, step: int, logs: dict[str, float]) -> None:
        """Do nothing with figures of trl."""

    def saved(self, checkpoint: Path) -> None:
        """Mark a checkpoint as complete."""
        mark_complete(checkpoint, self.tuning_state())

    def tuning_state(self) -> TuningState:
        """Losses and seconds so far, those of earlier processes included."""
        raise NotImplementedError

    def report(self, step: TrainingStep) -> None:
        """Show a step."""
        if distributed.is_main():
            self._reporter.update(step)


class FixedBatches(OwnTrainer, Generic[Row]):
    """To be mixed into a trainer of transformers: its batches, its loss, its checkpoints.

    Several processes share each batch, row by row in turn. Their losses are weighted by their share
    of the terms and their gradients are summed, so that a step is that of one process.

    Args:
        batches: What is trained on, in its order; a resumed training skips what is done.
        loss: Computes the loss of a batch.
        count: Counts of how many terms that loss is the mean.
        data_collator: Makes a batch of rows.
        train_dataset: The rows.
        state: How far earlier processes came.
        reporter: Same as in :class:`OwnTrainer`.
        arguments: Further arguments of the trainer.
    """

    def __init__(
        self,
        *,
        batches: Batches,
        loss: Loss,
        count: Callable[[Batch], int],
        data_collator: Callable[[Sequence[Row]], Batch],
        train_dataset: Sequence[Row],
        state: TuningState,
        reporter: Reporter,
        **arguments: object,
    ) -> None:
        self._batches = batches
        self._loss = loss
        self._count = count
        self._collate = data_collator
        self._rows = train_dataset
        self._losses = list(state.losses)
        data = {"data_collator": data_collator, "train_dataset": train_dataset}
        super().__init__(reporter=reporter, **arguments, **data)
        self.processing_class = None  # checkpoints need no copy of the tokenizer
        self._watch = Stopwatch(state.seconds)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Row]:
        """This process's rows of all batches of all epochs, in their order."""
        rank, size = distributed.rank(), distributed.world_size()
        # Where a batch has no row for a process, that one computes its first row, at weight 0.
        own = [batch[rank::size] or batch[:1] for batch in self._batches]
        return torch.utils.data.DataLoader(self._rows, batch_sampler=own, collate_fn=self._collate)

    def training_step(
        self, model: torch.nn.Module, *arguments: object, **named: object
    ) -> torch.Tensor:
        """Gradients of this process's rows, then those of all."""
        loss: torch.Tensor = super().training_step(model, *arguments, **named)
        distributed.sum_gradients(model.parameters())
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: object = None,
    ) -> torch.Tensor:
        """The loss of a batch; noted for the record."""
        loss = self._loss(model, inputs)
        value = float(loss.detach())
        if distributed.world_size() > 1:
            has_rows = distributed.rank() < len(self._batches[len(self._losses)])
            n_terms = self._count(inputs) if has_rows else 0
            total, n_all = distributed.summed([value * n_terms, n_terms])
            loss, value = loss * (n_terms / n_all), total / n_all
        if not math.isfinite(value):
            raise InputError(
                f"the loss of step {len(self._losses) + 1} is {value}; lower learning_rate "
                f"({float(self.args.learning_rate)}), or train with dtype=float32"
            )
        self._losses.append(value)
        return loss

    def step_ended(self, step: int) -> None:
        """Show the loss."""
        self.report(TrainingStep(step, len(self._batches), "loss", self._losses[-1]))

    def tuning_state(self) -> TuningState:
        """Losses and seconds so far, those of earlier processes included."""
        return TuningState(tuple(self._losses), self._watch.seconds())


class ChangeCheck:
    """Tells a training that trained from one that left every weight as it was.

    Made before a training, of its model.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._before = _digests(model)

    def require_change(self, model: torch.nn.Module, config: TrainingConfig) -> None:
        """Raise InputError unless a trained weight of ``model`` differs from what it was."""
        if _digests(model) == self._before:
            raise InputError(
                f"the training left every weight as it was; raise learning_rate "
                f"({config.learning_rate}) or lower warmup ({config.warmup}), and check the data: "
                "equal rewards and probabilities of 0.5 have no gradient"
            )


def _digests(model: torch.nn.Module) -> dict[str, int]:
    """The sum of the bits of every weight that is trained."""
    return {
        name: int(parameter.detach().flatten().view(torch.uint8).sum(dtype=torch.int64))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def lora_config(config: TrainingConfig, task_type: str) -> PeftConfig:
    """Adapters on every linear layer but the head.

    Raises:
        InputError: peft is missing.
    """
    return import_peft().LoraConfig(
        task_type=task_type,
        target_modules="all-linear",
        r=config.rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
    )


def trainer_arguments(
    kind: type[Arguments],
    config: TrainingConfig,
    base: LoadedModel,
    n_steps: int,
    folder: Path | None,
    scratch: Path,
    **more: object,
) -> Arguments:
    """Arguments of a trainer that makes one pass over ``n_steps`` fixed batches.

    Args:
        kind: Class of the arguments, such as ``trl.SFTConfig``.
        config: Settings of the fine-tuning.
        base: The model that is tuned.
        n_steps: Number of batches.
        folder: Of the checkpoints; None for none.
        scratch: Where trainers write without it.
        more: Further arguments of ``kind``.
    """
    distributed.check_model(base.model)
    # transformers 5 renames it, and warns about the old name.
    known = {field.name for field in dataclasses.fields(kind)}
    new, old = "activation_checkpointing", "gradient_checkpointing"
    checkpointing = {new if new in known else old: config.gradient_checkpointing}
    arguments: Arguments = kind(
        **{
            "output_dir": str(folder or scratch),
            # The batches of all epochs are one pass to the trainer.
            "num_train_epochs": 1,
            "per_device_train_batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            # transformers' "constant" ignores the warm-up.
            "lr_scheduler_type": config.scheduler.replace("constant", "constant_with_warmup"),
            "warmup_steps": int(config.warmup * n_steps),
            "weight_decay": config.weight_decay,
            "max_grad_norm": config.max_grad_norm,
            "seed": config.seed,
            "save_strategy": "steps" if folder else "no",
            "save_steps": config.save_steps,
            "save_total_limit": 2,
            "remove_unused_columns": False,
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": base.device.type == "cpu",
            "bf16": False,
            "fp16": False,
            **checkpointing,
            **more,
        }
    )
    arguments.mixed_precision = "no"  # whatever the launcher says: the dtype is a setting of ours
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one device: trl refuses to spread over several
    return arguments
