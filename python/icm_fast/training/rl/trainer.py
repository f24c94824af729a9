"""trl's GRPO and RLOO trainers on prompts that are fixed beforehand."""

from __future__ import annotations

import inspect
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from icm_fast import distributed
from icm_fast.errors import InputError
from icm_fast.files import write_atomically
from icm_fast.model.adapters import foreign_code
from icm_fast.model.loaded import LoadedModel
from icm_fast.training.folder import TuningFolder, TuningState, mark_complete
from icm_fast.training.rl.config import PolicyConfig
from icm_fast.training.rl.diagnostics import repetition
from icm_fast.training.sft.trainer import training_packages
from icm_fast.training.steps import ChangeCheck, Progress, keep_bare, lora_config, trainer_arguments

N_SAMPLES = 4

_LOG_FILE = "policy_log.json"
_STEER = 1.1
"""Factor by which the weight of the divergence changes in a step, where it is steered."""

_STEER_RANGE = 10.0
"""Most times as large or small as its setting it becomes."""

Tokenize = Callable[[str], Sequence[int]]
Judge = Callable[[Sequence[str], Sequence[Sequence[int]]], list[tuple[str, float]]]
"""Texts and rewards of continuations, from their prompts and token ids."""

Measure = Callable[[Any, int], dict[str, Any]]
"""Measures the peft model in training after a step, as plain JSON types."""

_FIGURES = {
    "loss": "loss",
    "reward": "reward",
    "reward_std": "reward_std",
    "kl": "kl",
    "entropy": "entropy",
    "length": "completions/mean_length",
    "unfinished": "completions/clipped_ratio",
    "repetition": "repetition",
}
"""Name in our history, and in the log of trl."""


@dataclass(slots=True)
class PolicyLog:
    """What a training recorded, so far.

    Attributes:
        steps: One entry for each step.
        measurements: Of held-out prompts.
        samples: Entries of the table of samples.
        seconds: Time of all processes.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    measurements: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def state(self) -> TuningState:
        """For the mark of a checkpoint."""
        return TuningState(tuple(step["loss"] for step in self.steps), self.seconds)


class Recorded:
    """To be mixed into a trainer of trl: our tokens of prompts, our records, our checkpoints.

    Args:
        config: Settings.
        record: What earlier processes recorded; goes on here.
        kl_weight: Weight of the divergence, as far as it was steered.
        tokenize: Token ids that the policy reads of a prompt.
        measure: Called before the first step, every ``eval_steps`` and after the last one.
        progress: Called after each step.
        arguments: What else the trainer takes.
    """

    def __init__(
        self,
        *,
        config: PolicyConfig,
        record: PolicyLog,
        kl_weight: float,
        tokenize: Tokenize,
        measure: Measure | None,
        progress: Progress | None,
        **arguments: Any,
    ) -> None:
        from transformers.trainer_callback import PrinterCallback

        super().__init__(**arguments)
        self._config = config
        self._record = record
        self._tokenize = tokenize
        self._measure = measure
        self._progress = progress
        self._began = time.monotonic() - record.seconds
        trainer: Any = self
        keep_bare(trainer)
        trainer.beta = kl_weight
        trainer.remove_callback(PrinterCallback)
        for adapter in trainer.model.peft_config.values():
            # Else every checkpoint would ask the hub for the base's configuration.
            adapter.base_model_name_or_path = ""

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self._tokenize(prompt)) for prompt in prompts], None, {}

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        """Measure before the first step; refuse a loss that is no number."""
        trainer: Any = self
        if self._measure and not self._record.measurements:
            self._note(self._measure, 0)
        step = trainer.state.global_step + 1
        with self._told_of_no_number(step):
            loss: torch.Tensor = super().training_step(*arguments, **named)  # type: ignore[misc]
        if not math.isfinite(distributed.summed([float(loss)])[0]):  # so that all processes end
            raise self._no_number("loss", step)
        if trainer.accelerator.sync_gradients:  # at the last pass of a step
            distributed.sum_gradients(trainer.model.parameters(), 1 / distributed.world_size())
        return loss

    @contextmanager
    def _told_of_no_number(self, step: int) -> Iterator[None]:
        """Say in one line that the policy has no probabilities left to sample from."""
        try:
            yield
        except RuntimeError as error:
            if "probability tensor" not in str(error):  # as torch.multinomial says it
                raise
            raise self._no_number("policy", step) from error

    def _no_number(self, what: str, step: int) -> InputError:
        return InputError(
            f"the {what} of step {step} is no number any more; lower learning_rate "
            f"({self._config.learning_rate}) or raise kl_weight"
        )

    def _maybe_log_save_evaluate(self, *arguments: Any, **named: Any) -> None:
        trainer: Any = self
        step = trainer.state.global_step
        due = step % self._config.eval_steps == 0 or step == self._config.steps
        # transformers comes here once more at the end of an epoch.
        if self._measure and due and self._record.measurements[-1]["step"] != step:
            self._note(self._measure, step)
        super()._maybe_log_save_evaluate(*arguments, **named)  # type: ignore[misc]

    def _note(self, measure: Measure, step: int) -> None:
        """Measure in the main process; the others wait for what it found."""
        trainer: Any = self

        def told() -> dict[str, Any]:
            with self._told_of_no_number(step):
                return measure(trainer.model, step)

        self._record.measurements.append(distributed.on_main(told))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Note the figures of a step, and steer the weight of the divergence."""
        trainer: Any = self
        super().log(logs, start_time)  # type: ignore[misc]
        if "reward" not in logs:  # the summary at the end of a training
            return
        figures = {name: logs.get(key) for name, key in _FIGURES.items()}
        step = trainer.state.global_step
        self._record.steps.append({"step": step, **figures, "kl_weight": trainer.beta})
        target, start = self._config.kl_target, self._config.kl_weight
        if target is not None and figures["kl"] is not None:
            steered = trainer.beta * (_STEER if figures["kl"] > target else 1 / _STEER)
            # Bounded, so that a long start below the target is not paid back later.
            trainer.beta = min(max(steered, start / _STEER_RANGE), start * _STEER_RANGE)
        if self._progress and distributed.is_main():
            self._progress(step, self._config.steps, float(logs["reward"]))

    def seconds(self) -> float:
        """Time of training and measuring so far, that of earlier processes included."""
        return time.monotonic() - self._began

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        from transformers import Trainer

        # Not trl's own method, which adds a model card; a torn checkpoint bears no mark.
        trainer: Any = self
        Trainer._save_checkpoint(trainer, model, trial)
        self._record.seconds = self.seconds()
        folder = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"
        content = asdict(self._record) | {"kl_weight": trainer.beta}
        text = json.dumps(content, ensure_ascii=False)
        distributed.on_main(lambda: write_atomically(folder / _LOG_FILE, text.encode()))
        mark_complete(folder, self._record.state())


def train_against(
    twin: Any,
    base: LoadedModel,
    prompts: Sequence[str],
    *,
    tokenize: Tokenize,
    judge: Judge,
    config: PolicyConfig,
    folder: TuningFolder | None,
    measure: Measure | None,
    progress: Progress | None,
) -> tuple[Any, PolicyLog]:
    """Train adapters on ``twin``, a copy of the base; go on from the folder's last checkpoint.

    The random states of the process are put back afterwards.

    Args:
        twin: The policy before training; its weights stay.
        base: Where it comes from.
        prompts: ``steps * batch_size`` prompts in their order.
        tokenize: Token ids that the policy reads of a prompt.
        judge: Rewards of continuations.
        config: Settings.
        folder: Of the checkpoints; None keeps none.
        measure: As of :class:`Recorded`.
        progress: Called after each step with its number, the number of steps and the mean reward.

    Returns:
        The peft model around ``twin``, and what was recorded.

    Raises:
        InputError: trl, peft or datasets is missing, or the loss is no longer a number.
    """
    start = folder.last_checkpoint() if folder else None
    record, kl_weight = _read_log(start[0]) if start else (PolicyLog(), config.kl_weight)
    trl, peft, datasets = training_packages()
    grpo = config.algorithm == "grpo"

    def reward(prompts: list[str], completion_ids: list[list[int]], **more: Any) -> list[float]:
        judged = judge(prompts, completion_ids)
        repeated = [repetition(ids) for ids in completion_ids]
        more["log_metric"]("repetition", sum(repeated) / len(repeated))
        step = more["trainer_state"].global_step
        if step % config.sample_steps == 0 and distributed.is_main():
            record.samples += [
                {"step": step, "prompt": prompt, "continuation": text, "reward": value}
                for prompt, (text, value) in list(zip(prompts, judged, strict=True))[:N_SAMPLES]
            ]
        return [value for _, value in judged]

    with tempfile.TemporaryDirectory() as scratch, foreign_code():

        class PolicyTrainer(Recorded, trl.GRPOTrainer if grpo else trl.RLOOTrainer):  # type: ignore[misc]
            """One of trl's trainers; defined here because trl may be missing."""

        trainer = PolicyTrainer(
            config=config,
            record=record,
            kl_weight=kl_weight,
            tokenize=tokenize,
            measure=measure,
            progress=progress,
            model=twin,
            reward_funcs=reward,
            args=trainer_arguments(
                trl.GRPOConfig if grpo else trl.RLOOConfig,
                config,
                base,
                config.steps,
                folder.checkpoints if folder else Path(scratch),
                **_arguments(config),
                save_strategy="steps" if folder else "no",
            ),
            train_dataset=datasets.Dataset.from_dict({"prompt": list(prompts)}),
            processing_class=base.tokenizer,
            peft_config=lora_config(peft, config, "CAUSAL_LM"),
        )
        _count_positions(trainer.model, twin)
        check = ChangeCheck(trainer.model)
        trainer.train(resume_from_checkpoint=str(start[0]) if start else None)
        check.require_change(trainer.model, config)
        record.seconds = trainer.seconds()
        return trainer.model, PolicyLog(**distributed.on_main(lambda: asdict(record)))


def _count_positions(policy: Any, model: Any) -> None:
    """Let positions begin behind the padding, which stands on the left.

    trl passes no positions, and a model with absolute ones (GPT-2) would then be trained at others
    than it samples at.
    """
    if "position_ids" not in inspect.signature(type(model).forward).parameters:
        return  # such models derive them from the mask, or have none

    def add(
        _: Any, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        mask = named.get("attention_mask")
        if mask is not None and named.get("position_ids") is None:
            named = {**named, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        return arguments, named

    policy.register_forward_pre_hook(add, with_kwargs=True)


def _arguments(config: PolicyConfig) -> dict[str, Any]:
    """What trl's reinforcement learning takes besides the arguments of every trainer."""
    minimum = {"min_new_tokens": config.min_new_tokens} if config.min_new_tokens else None
    size = distributed.world_size()
    passes = config.n_passes_of(size)
    return {
        "per_device_train_batch_size": config.n_episodes_of(size) // passes,
        "gradient_accumulation_steps": passes,
        "num_generations": config.group_size,
        "max_completion_length": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "generation_kwargs": minimum,
        # With a weight of 0 trl would leave out the divergence, also from what it reports.
        "beta": config.kl_weight,
        "epsilon": config.clip,
        # Else a base with dropout of its own would sample as one policy and learn as another.
        "disable_dropout": True,
        "shuffle_dataset": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
    }


def _read_log(checkpoint: Path) -> tuple[PolicyLog, float]:
    content = json.loads((checkpoint / _LOG_FILE).read_text(encoding="utf-8"))
    kl_weight = content.pop("kl_weight")
    return PolicyLog(**content), kl_weight
