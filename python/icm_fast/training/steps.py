"""One pass over batches that are fixed beforehand, for any of the trainers of transformers."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from icm_fast import distributed
from icm_fast.errors import InputError
from icm_fast.model.loaded import LoadedModel
from icm_fast.training.config import TrainingConfig
from icm_fast.training.folder import TuningState, mark_complete

Progress = Callable[[int, int, float], None]
"""Called after each step with its number, the number of steps, and its loss; of several processes
in the main one."""

Batches = Sequence[Sequence[int]]
"""Rows of every batch of every epoch."""

Loss = Callable[[Any, dict[str, torch.Tensor]], Any]
"""Mean loss of a collated batch, from the model and that batch."""

Count = Callable[[dict[str, torch.Tensor]], int]
"""Of how many terms that loss is the mean."""


class FixedBatches:
    """To be mixed into a transformers Trainer: its batches, its loss, its checkpoints.

    Several processes share each batch, row by row in turn. Their losses are weighted by their share
    of the terms and their gradients are summed, so that a step is that of one process.

    Args:
        batches: What is trained on, in its order; going on is skipping.
        loss: Computes the loss of a batch.
        count: Counts its terms.
        data_collator: Makes a batch of rows.
        train_dataset: The rows.
        state: How far earlier processes came.
        progress: Called after each step.
        arguments: What else the trainer takes.
    """

    def __init__(
        self,
        *,
        batches: Batches,
        loss: Loss,
        count: Count,
        data_collator: Callable[[Any], dict[str, torch.Tensor]],
        train_dataset: Any,
        state: TuningState,
        progress: Progress | None,
        **arguments: Any,
    ) -> None:
        from transformers.trainer_callback import PrinterCallback

        self._batches = batches
        self._loss = loss
        self._count = count
        self._collate = data_collator
        self._rows = train_dataset
        self._losses = list(state.losses)
        self._seconds_before = state.seconds
        self._progress = progress
        arguments |= {"data_collator": data_collator, "train_dataset": train_dataset}
        super().__init__(**arguments)
        trainer: Any = self
        trainer.processing_class = None  # checkpoints need no copy of the tokenizer
        trainer.remove_callback(PrinterCallback)
        for adapter in getattr(trainer.model, "peft_config", {}).values():
            # Else every checkpoint would ask the hub for the base's configuration.
            adapter.base_model_name_or_path = ""
        keep_bare(trainer)
        self._began = time.monotonic()

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """This process's rows of all batches of all epochs, in their order."""
        rank, size = distributed.rank(), distributed.world_size()
        # Where a batch has no row for a process, that one computes its first row, at weight 0.
        own = [batch[rank::size] or batch[:1] for batch in self._batches]
        return torch.utils.data.DataLoader(self._rows, batch_sampler=own, collate_fn=self._collate)

    def training_step(self, model: Any, *arguments: Any, **named: Any) -> torch.Tensor:
        """Gradients of this process's rows, then those of all."""
        loss: torch.Tensor = super().training_step(model, *arguments, **named)  # type: ignore[misc]
        distributed.sum_gradients(model.parameters())
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch; noted for the record."""
        loss = self._loss(model, inputs)
        value = float(loss.detach())
        if distributed.world_size() > 1:
            has_rows = distributed.rank() < len(self._batches[len(self._losses)])
            n_terms = self._count(inputs) if has_rows else 0
            total, n_all = distributed.summed([value * n_terms, n_terms])
            loss, value = loss * (n_terms / n_all), total / n_all
        if not math.isfinite(value):
            rate = float(self.args.learning_rate)  # type: ignore[attr-defined]
            raise InputError(
                f"the loss of step {len(self._losses) + 1} is {value}; lower learning_rate "
                f"({rate}), or train with dtype=float32"
            )
        self._losses.append(value)
        if self._progress and distributed.is_main():
            self._progress(len(self._losses), len(self._batches), value)
        return loss

    def tuning_state(self) -> TuningState:
        """Losses and seconds so far, those of earlier processes included."""
        seconds = self._seconds_before + time.monotonic() - self._began
        return TuningState(tuple(self._losses), seconds)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        from transformers import Trainer

        # Not trl's own method, which adds a model card; a torn checkpoint bears no mark.
        trainer: Any = self
        Trainer._save_checkpoint(trainer, model, trial)
        step = trainer.state.global_step
        mark_complete(Path(trainer.args.output_dir) / f"checkpoint-{step}", self.tuning_state())


def keep_bare(trainer: Any) -> None:
    """Keep DDP from around the model of a trainer, whose class sums the gradients itself.

    DDP averages over processes, whose parts of a batch may differ in size; it sees only what passes
    through the forward of the whole model; and it fails where an expert has no token.
    """
    if distributed.world_size() > 1:
        prepare = trainer.accelerator.prepare_model
        trainer.accelerator.prepare_model = partial(prepare, evaluation_mode=True)


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
                f"({config.learning_rate}) or lower warmup ({config.warmup}), and check that the "
                "data prefers something: equal rewards or probabilities of 0.5 have no gradient"
            )


def _digests(model: torch.nn.Module) -> dict[str, int]:
    """The sum of the bits of every weight that is trained."""
    return {
        name: int(parameter.detach().flatten().view(torch.uint8).sum(dtype=torch.int64))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def lora_config(peft: Any, config: TrainingConfig, task_type: str) -> Any:
    """Adapters on every linear layer but the head."""
    return peft.LoraConfig(
        task_type=task_type,
        target_modules="all-linear",
        r=config.rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
    )


def trainer_arguments(
    kind: Any, config: TrainingConfig, base: LoadedModel, n_steps: int, output: Path, **more: Any
) -> Any:
    """Arguments of a trainer that makes one pass over ``n_steps`` fixed batches.

    Args:
        kind: Class of the arguments, such as ``trl.SFTConfig``.
        config: Settings of the fine-tuning.
        base: The model that is tuned.
        n_steps: Number of batches.
        output: Folder of the checkpoints.
        more: What ``kind`` takes besides; ``save_strategy`` is ``steps`` unless named here.
    """
    distributed.check_model(base.model)
    # transformers 5 renames it on its way, and warns of the old name.
    known = {field.name for field in dataclasses.fields(kind)}
    new, old = "activation_checkpointing", "gradient_checkpointing"
    checkpointing = {new if new in known else old: config.gradient_checkpointing}
    arguments = kind(
        **{
            "output_dir": str(output),
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
            "save_strategy": "steps",
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
    arguments.mixed_precision = "no"  # whatever a launcher has: the dtype is a setting of ours
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one device: trl refuses to spread over several
    return arguments
