"""One pass over batches that are fixed in advance, for any trainer of transformers or trl."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from icm_fast.training.adapted import adapter_sentence, outside_text
from icm_fast.training.config import TrainingConfig, TuningConfig
from icm_fast.training.folder import TuningState, mark_complete
from icm_fast.training.sharded import require_fsdp2, whole
from icm_fast.training.step_log import StepLog
from icm_fast.types import Reporter

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import (
        PreTrainedModel,
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainingArguments,
    )
else:
    Trainer = object  # transformers' own one takes seconds to import; subclasses inherit it

Row = TypeVar("Row")
Arguments = TypeVar("Arguments", bound="TrainingArguments")

Batch = dict[str, torch.Tensor]
"""What a model receives in a step."""

Batches = Sequence[Sequence[int]]
"""Rows of every batch of every epoch."""

Loss = Callable[[torch.nn.Module, Batch], tuple[torch.Tensor, Mapping[str, float]]]
"""Mean loss of a collated batch, from the model (perhaps peft's, around it) and that batch, with
other means over the same terms, such as an accuracy."""


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
        adapted = hasattr(self.model, "peft_config") and distributed.is_main()
        if adapted and (sentence := adapter_sentence(self.model)) is not None:
            reporter.warn(sentence)
        for adapter in getattr(self.model, "peft_config", {}).values():
            # Otherwise every checkpoint would ask the hub for the configuration of the base.
            adapter.base_model_name_or_path = ""
        if distributed.is_sharded():
            require_fsdp2(self.accelerator)
            # A training of this process that ended among the passes of a step left it off, and the
            # state of the optimiser would then not be read from a checkpoint.
            self.accelerator.gradient_state._set_sync_gradients(True)
        elif distributed.world_size() > 1:
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


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass of one process.

    Attributes:
        rows: What it computes.
        share: Their part of the terms of the step, of all its passes in all processes; 0 where a
            process has fewer rows than others and computes its first one again.
    """

    rows: Sequence[int]
    share: float


def passes_of(
    rows: Sequence[int], terms: Sequence[int], n_passes: int, *, rank: int, size: int
) -> list[Pass]:
    """The passes of a process over its part of some rows; always ``n_passes``.

    Args:
        rows: Those of all processes, which take them in turn.
        terms: Of how many terms the loss of each row of the data is the mean.
        n_passes: Enough for the largest part.
        rank: Of the process.
        size: Number of processes.
    """
    total = sum(terms[row] for row in rows)
    own = rows[rank::size]
    # At least one row where there is one; a batch without rows for a process gives it none.
    length = max(1, -(-len(rows[0::size]) // n_passes))
    parts = [own[start : start + length] for start in range(0, len(own), length)]
    made = [Pass(part, sum(terms[row] for row in part) / total) for part in parts]
    return made + [Pass(rows[:1], 0.0)] * (n_passes - len(made))


class FixedBatches(OwnTrainer, Generic[Row]):
    """To be mixed into a trainer of transformers: its batches, its loss, its checkpoints.

    Several processes share each batch, row by row in turn, and each may take several passes over
    its rows. Losses are weighted by their share of the terms and gradients are summed, so that a
    step is that of one process in one pass, up to rounding.

    Args:
        batches: What is trained on, in its order; a resumed training skips what is done.
        held_out: Rows that the loss is measured on.
        loss: Computes the loss of a pass.
        terms: Of how many terms the loss of each row is the mean.
        n_passes: Of each process in a step.
        autocast: Whether products are computed in bfloat16.
        data_collator: Makes a batch of rows.
        train_dataset: The rows.
        state: How far earlier processes came.
        log: Where the figures of steps go.
        reporter: Same as in :class:`OwnTrainer`.
        arguments: Further arguments of the trainer.
    """

    control: TrainerControl

    def __init__(
        self,
        *,
        batches: Batches,
        held_out: Sequence[int],
        loss: Loss,
        terms: Sequence[int],
        n_passes: int,
        autocast: bool,
        data_collator: Callable[[Sequence[Row]], Batch],
        train_dataset: Sequence[Row],
        state: TuningState,
        log: StepLog,
        reporter: Reporter,
        **arguments: object,
    ) -> None:
        cut = partial(
            passes_of, terms=terms, rank=distributed.rank(), size=distributed.world_size()
        )
        self._n_passes = n_passes
        self._passes = [one for batch in batches for one in cut(batch, n_passes=n_passes)]
        longest = max(len(one.rows) for one in self._passes)
        n_measured = -(-len(held_out) // (longest * distributed.world_size()))
        self._measured = cut(held_out, n_passes=n_measured) if held_out else []
        self._loss = loss
        self._autocast = autocast
        self._collate = data_collator
        self._rows = train_dataset
        self._losses = list(state.losses)
        self._n_computed = len(state.losses) * n_passes
        self._sums: dict[str, float] = {}
        self._figures: dict[str, float] = {}
        self._log = log
        data = {"data_collator": data_collator, "train_dataset": train_dataset}
        if held_out:
            data["eval_dataset"] = train_dataset  # asked for, and not read: see evaluate
        super().__init__(reporter=reporter, **arguments, **data)
        self.processing_class = None  # checkpoints need no copy of the tokenizer
        self._watch = Stopwatch(state.seconds)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Row]:
        """This process's rows of all passes of all epochs, in their order."""
        own = [one.rows for one in self._passes]
        return torch.utils.data.DataLoader(self._rows, batch_sampler=own, collate_fn=self._collate)

    def training_step(
        self, model: torch.nn.Module, *arguments: object, **named: object
    ) -> torch.Tensor:
        """Gradients of this process's rows, then those of all."""
        loss: torch.Tensor = super().training_step(model, *arguments, **named)
        if self._n_computed % self._n_passes == 0 and not distributed.is_sharded():
            distributed.sum_gradients(model.parameters())
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: object = None,
    ) -> torch.Tensor:
        """The loss of a pass, at its share of the step; noted for the record."""
        share = self._passes[self._n_computed].share
        loss, figures = self._computed(model, inputs)
        for name, value in (("loss", float(loss.detach())), *figures.items()):
            self._sums[name] = self._sums.get(name, 0.0) + value * share
        self._n_computed += 1
        if self._n_computed % self._n_passes == 0:
            self._end_passes()
        # The trainer divides by the number of passes, and FSDP by that of processes.
        divisor = self._n_passes * (distributed.world_size() if distributed.is_sharded() else 1)
        return loss.to(self.args.device) * (share * divisor)

    def _computed(
        self, model: torch.nn.Module, inputs: Batch
    ) -> tuple[torch.Tensor, Mapping[str, float]]:
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self._autocast):
            return self._loss(model, inputs)

    def _end_passes(self) -> None:
        """Note the figures of a step, means over the terms of all processes."""
        self._figures = _summed(self._sums)
        self._sums = {}
        value = self._figures["loss"]
        if not math.isfinite(value):
            raise InputError(
                f"the loss of step {len(self._losses) + 1} is {value}; lower learning_rate "
                f"({float(self.args.learning_rate)}), or train with dtype=float32"
            )
        self._losses.append(value)

    def evaluate(self, *_: object, **__: object) -> dict[str, float]:
        """The figures of the rows that are held out; draws no random number."""
        self.model.eval()
        sums: dict[str, float] = {}
        for one in self._measured:
            inputs = self._prepare_inputs(self._collate([self._rows[row] for row in one.rows]))
            with torch.no_grad():
                loss, figures = self._computed(self.model, inputs)
            for name, value in (("loss", float(loss)), *figures.items()):
                sums[name] = sums.get(name, 0.0) + value * one.share
        metrics = {f"eval_{name}": value for name, value in _summed(sums).items()}
        self._log.write({"step": self.state.global_step, **metrics})
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def take_best(self, checkpoint: Path) -> bool:
        """Read the best weights where a training had ended, perhaps early, with a checkpoint.

        A trainer would go on from there and look after its next step whether to stop.

        Returns:
            Whether that training had ended.
        """
        from transformers.trainer_callback import TrainerState
        from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        control = state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
        if not (control.get("should_training_stop") and state.best_global_step):
            return False
        self.state = state
        best = checkpoint.parent / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        self._load_from_checkpoint(str(best))
        return True

    def step_ended(self, step: int) -> None:
        """Show the loss."""
        total = len(self._passes) // self._n_passes
        self.report(TrainingStep(step, total, "loss", self._losses[-1]))

    def logged(self, step: int, logs: dict[str, float]) -> None:
        """Note the figures of a step with those that the trainer has."""
        wanted: tuple[str, ...] = ("learning_rate", "grad_norm")
        own = {name: float(logs[name]) for name in wanted if name in logs}
        if "learning_rate" in own:
            self._log.write({"step": step, **self._figures, **own})

    def tuning_state(self) -> TuningState:
        """Losses and seconds so far, those of earlier processes included."""
        best = self.state.best_global_step if self._measured else None
        return TuningState(
            tuple(self._losses),
            self._watch.seconds(),
            best,
            self.state.best_metric if best else None,
        )


def _summed(sums: Mapping[str, float]) -> dict[str, float]:
    """The sums over all processes."""
    return dict(zip(sums, distributed.summed(list(sums.values())), strict=True))


def run_training(
    trainer: FixedBatches[Row], config: TuningConfig, checkpoint: Path | None
) -> TuningState:
    """Train from a checkpoint on, or from the start.

    Raises:
        InputError: The loss is not finite, or no weight changed.
    """
    if config.method == "lora":
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:  # trl puts adapters on a base in 4 bits into bfloat16
                parameter.data = parameter.data.float()
    check = ChangeCheck(trainer.model)
    if checkpoint and config.eval_fraction and trainer.take_best(checkpoint):
        return trainer.tuning_state()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    check.require_change(trainer.model, config)
    return trainer.tuning_state()


def n_passes_of(config: TuningConfig) -> int:
    """Forward and backward passes that each process takes in a step."""
    rows = -(-config.batch_size // distributed.world_size())
    return -(-rows // (config.micro_batch_size or rows))


def tuning_arguments(
    kind: type[Arguments],
    config: TuningConfig,
    base: LoadedModel,
    n_steps: int,
    folder: Path | None,
    scratch: Path,
    **more: object,
) -> Arguments:
    """Arguments of a trainer with :class:`FixedBatches`; see :func:`trainer_arguments`."""
    measured: dict[str, object] = {}
    if config.eval_fraction and folder is None and distributed.world_size() > 1:
        raise InputError(
            "several processes read the best weights from an output folder; name one "
            "(output_dir), or set eval_fraction to 0"
        )
    if config.eval_fraction:
        measured = {
            "eval_strategy": "steps",
            "eval_steps": config.save_steps,
            "save_strategy": "steps",  # also without a folder: the best weights are read back
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
            "restore_callback_states_from_checkpoint": True,
        }
    if config.neftune_noise_alpha:
        measured["neftune_noise_alpha"] = config.neftune_noise_alpha
    return trainer_arguments(
        kind,
        config,
        base,
        n_steps,
        folder,
        scratch,
        gradient_accumulation_steps=n_passes_of(config),
        logging_strategy="steps",
        logging_steps=1,
        **measured,
        **more,
    )


def tuning_callbacks(config: TuningConfig) -> list[TrainerCallback]:
    """What measures after the last step, and stops early."""
    from transformers import EarlyStoppingCallback

    from icm_fast.training.callbacks import MeasureLast

    if not config.eval_fraction:
        return []
    early = [EarlyStoppingCallback(config.patience)] if config.patience else []
    return [MeasureLast(), *early]


class ChangeCheck:
    """Tells a training that trained from one that left every weight as it was.

    Made before a training, of its model.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        names = [name for name, one in model.named_parameters() if one.requires_grad]
        self._before = _digests(model, names)

    def require_change(self, model: torch.nn.Module, config: TrainingConfig) -> None:
        """Raise InputError unless a trained weight of ``model`` differs from what it was."""
        # By name: weights that were read back from the best checkpoint ask for no gradient.
        if _digests(model, self._before) == self._before:
            raise InputError(
                f"the training left every weight as it was; raise learning_rate "
                f"({config.learning_rate}) or lower warmup ({config.warmup}), and check the data: "
                "equal rewards and probabilities of 0.5 have no gradient"
            )


def _digests(model: torch.nn.Module, names: Iterable[str]) -> dict[str, int]:
    """The sum of the bits of every named weight."""
    parameters = dict(model.named_parameters())
    return {
        name: int(whole(parameters[name]).flatten().view(torch.uint8).sum(dtype=torch.int64))
        for name in names
    }


def lora_config(config: TrainingConfig, task_type: str, model: PreTrainedModel) -> PeftConfig:
    """Adapters on the layers that the settings name, as far as texts pass through them.

    Raises:
        InputError: peft is missing.
    """
    target = config.target_modules
    return import_peft().LoraConfig(
        task_type=task_type,
        exclude_modules=outside_text(model) or None,
        target_modules=target if isinstance(target, str) else list(target),
        r=config.rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
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
            "use_cpu": base.device.type == "cpu" and not distributed.shards_on_gpus(),
            "bf16": False,
            "fp16": False,
            **checkpointing,
            **more,
        }
    )
    arguments.mixed_precision = "no"  # whatever the launcher says: the dtype is a setting of ours
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one device: trl refuses to spread over several
    return arguments
