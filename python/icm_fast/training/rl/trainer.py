"""trl's GRPO and RLOO trainers on prompts that are fixed in advance."""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icm_fast import distributed
from icm_fast.engine.progress import Stopwatch
from icm_fast.errors import InputError
from icm_fast.files import write_atomically
from icm_fast.files.fields import Fields, read_object
from icm_fast.model.loaded import LoadedModel
from icm_fast.tracking import RunTracking, Step
from icm_fast.training.chat import Prompt, prompt_text
from icm_fast.training.folder import TuningFolder, TuningState
from icm_fast.training.rl.algorithm import algorithm_arguments, known_arguments
from icm_fast.training.rl.config import PolicyConfig
from icm_fast.training.rl.diagnostics import repetition
from icm_fast.training.rl.generation import Continuation
from icm_fast.training.session import trainer_surroundings
from icm_fast.training.sft.trainer import training_packages
from icm_fast.training.sharded import in_forward, sample_together
from icm_fast.training.step_log import StepLog
from icm_fast.training.steps import (
    ChangeCheck,
    OwnTrainer,
    TrainingStep,
    lora_config,
    trainer_arguments,
)
from icm_fast.training.watch import Watch
from icm_fast.types import Reporter

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import TrainerState
    from trl import GRPOConfig

N_SAMPLES = 4

_LOG_FILE = "policy_log.json"
_MEASURED = ("step", "reward", "kl", "perplexity", "length", "finished", "repetition", "distinct")
"""Figures of every measurement that reports show."""
_STEER = 1.1
"""Factor by which the weight of the divergence changes in a step, where it is steered."""

_STEER_RANGE = 10.0
"""How many times as large or as small as its setting it may become."""

Tokenize = Callable[[Prompt], Sequence[int]]
Judge = Callable[[Sequence[Prompt], Sequence[Sequence[int]]], list[tuple[Continuation, float]]]
"""Continuations and their rewards, from their prompts and token ids."""

Record = dict[str, object]
"""An entry of a history, of plain JSON types."""

Figures = dict[str, float | None]
"""Figures of a step by name; None where trl gives none, as the divergence at weight 0."""

Measure = Callable[["PeftModel", int], Record]
"""Measures the peft model in training after a step."""

_FIGURES = {
    "loss": "loss",
    "reward": "reward",
    "reward_std": "reward_std",
    "kl": "kl",
    "entropy": "entropy",
    "length": "completions/mean_length",
    "unfinished": "unfinished",
    "repetition": "repetition",
    "clip_share": "clip_ratio/region_mean",
    "router_loss": "aux_loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}
"""Name in our history, and in the log of trl."""

_OF_BATCH = ("reward", "reward_std", "length", "unfinished", "repetition")
"""Figures of continuations, which stay for all updates from them."""


@dataclass(slots=True)
class PolicyLog:
    """What a training recorded, so far.

    Attributes:
        steps: One entry for each step.
        measurements: Of held-out prompts.
        samples: Entries of the table of samples.
        seconds: Time of all processes.
    """

    steps: list[Figures] = field(default_factory=list)
    measurements: list[Record] = field(default_factory=list)
    samples: list[Record] = field(default_factory=list)
    seconds: float = 0.0

    def state(self) -> TuningState:
        """For the mark of a checkpoint."""
        losses = (step["loss"] for step in self.steps)
        return TuningState(tuple(loss for loss in losses if loss is not None), self.seconds)


def read_log(content: Fields, samples: Sequence[Fields]) -> PolicyLog:
    """The record in a JSON object, without its seconds.

    Raises:
        InputError: A figure is missing or not a number.
    """
    measurements = content.objects("measurements")
    for measured in measurements:
        for name in _MEASURED:
            _figure(measured, name)
    return PolicyLog(
        steps=[
            {name: _figure(step, name, optional=True) for name in step.content}
            for step in content.objects("steps")
        ],
        measurements=[dict(measured.content) for measured in measurements],
        samples=[dict(sample.content) for sample in samples],
    )


def _figure(fields: Fields, name: str, *, optional: bool = False) -> float | None:
    """A number, which may be NaN."""
    value = fields.content.get(name)
    if value is None and optional:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return value
    return fields.number(name)


class Recorded(OwnTrainer):
    """To be mixed into a trainer of trl: our tokens of prompts, our records, our checkpoints.

    Args:
        config: Settings.
        record: What earlier processes recorded; continued here.
        kl_weight: Weight of the divergence, as far as it was steered.
        prompts: What the rows of the training set stand for.
        tokenize: Token ids that the policy reads of a prompt.
        ends: Tokens that end a continuation.
        measure: Called before the first step, every ``eval_steps`` and after the last one.
        log: Receives the figures of each step at once.
        reporter: Shows the mean reward of each step.
        tracking: Receives what is measured; None for nothing.
        arguments: Further arguments of the trainer.
    """

    def __init__(
        self,
        *,
        config: PolicyConfig,
        record: PolicyLog,
        kl_weight: float,
        prompts: Sequence[Prompt],
        tokenize: Tokenize,
        ends: frozenset[int],
        measure: Measure | None,
        log: StepLog,
        reporter: Reporter,
        tracking: RunTracking | None,
        **arguments: object,
    ) -> None:
        super().__init__(reporter=reporter, **arguments)
        self._tracking = tracking
        self._prompts = prompts
        self._ends = ends
        self._log = log
        self._config = config
        self._record = record
        self._tokenize = tokenize
        self._measure = measure
        self._watch = Stopwatch(record.seconds)
        self.beta = kl_weight
        if hasattr(self, "eos_token_ids"):
            self.eos_token_ids = sorted(ends)
        elif config.mask_truncated_completions:
            raise InputError(
                "mask_truncated_completions needs a trl that knows all tokens that end a text, "
                "such as 1.16; upgrade trl, or remove it"
            )

    def _tokenize_prompts(
        self, prompts: list[str]
    ) -> tuple[list[list[int]], None, dict[str, object]]:
        return [list(self._tokenize(self._prompts[int(row)])) for row in prompts], None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *arguments: object, **named: object
    ) -> object:
        """Continuations, sampled no more at once than a training pass takes.

        trl samples all of a step at once, whose keys and values need that much more memory. Its
        GRPO returns log-probabilities beside the tokens, which are None here; its RLOO does not.
        """
        made: list[list[int]] = []
        with_logprobs = False
        for start in range(0, len(prompt_ids), self._config.micro_batch_size):
            part = prompt_ids[start : start + self._config.micro_batch_size]
            sampled = super()._generate_single_turn(part, *arguments, **named)
            with_logprobs = isinstance(sampled, tuple)
            made += (self._cut(list(ids)) for ids in (sampled[0] if with_logprobs else sampled))
        return (made, None) if with_logprobs else made

    def _cut(self, tokens: list[int]) -> list[int]:
        """A continuation up to its end; trl 1.0 knows one token that ends a text."""
        end = next((k for k, token in enumerate(tokens) if token in self._ends), len(tokens))
        return tokens[: end + 1]

    def training_step(self, *arguments: object, **named: object) -> torch.Tensor:
        """Gradients of all processes; refuse a loss that is not a number."""
        step = int(self.state.global_step) + 1
        with self._diverging(step):
            loss: torch.Tensor = super().training_step(*arguments, **named)
        if not math.isfinite(distributed.summed([float(loss)])[0]):  # so that all processes end
            raise self._diverged("loss not finite", step)
        # At the last pass of a step; FSDP averages by itself.
        if self.accelerator.sync_gradients and not distributed.is_sharded():
            distributed.sum_gradients(self.model.parameters(), 1 / distributed.world_size())
        return loss

    @contextmanager
    def _diverging(self, step: int) -> Iterator[None]:
        """Say in one line that the policy has no probabilities left to sample from."""
        try:
            yield
        except RuntimeError as error:
            if "probability tensor" not in str(error):  # as torch.multinomial says it
                raise
            raise self._diverged("NaN probabilities", step) from error

    def _diverged(self, what: str, step: int) -> InputError:
        return InputError(
            f"the policy diverged at step {step} ({what}); lower learning_rate "
            f"({self._config.learning_rate}) or raise kl_weight ({self._config.kl_weight})"
        )

    def began(self) -> None:
        """Measure the start policy."""
        if distributed.is_sharded():
            sample_together(self.model)
        if self._measure and not self._record.measurements:
            self._note(self._measure, 0)

    def step_ended(self, step: int) -> None:
        """Measure where it is due."""
        if self._measure and (step % self._config.eval_steps == 0 or step == self._config.steps):
            self._note(self._measure, step)

    def _note(self, measure: Measure, step: int) -> None:
        """Measure in the main process; the others wait for what it found.

        A policy that is divided is measured by all, who draw the same numbers.
        """

        def found() -> Record:
            with self._diverging(step):
                return measure(self.model, step)

        if distributed.is_sharded():
            own = in_forward(self.model, found)
            measured = distributed.on_main(lambda: own)
        else:
            measured = distributed.on_main(found)
        self._record.measurements.append(measured)
        if self._tracking is not None:
            figures = {k: v for k, v in measured.items() if k != "step" and isinstance(v, float)}
            self._tracking.report(Step("held_out", step, figures))

    def logged(self, step: int, logs: dict[str, float]) -> None:
        """Note the figures of a step, and steer the weight of the divergence."""
        if "loss" not in logs:  # the summary at the end of a training
            return
        figures = {name: logs.get(key) for name, key in _FIGURES.items()}
        if self._record.steps and figures["reward"] is None:  # another update from the same batch
            figures |= {name: self._record.steps[-1][name] for name in _OF_BATCH}
        line: Figures = {"step": step, **figures, "kl_weight": self.beta}
        self._record.steps.append(line)
        self._log.write({name: value for name, value in line.items() if value is not None})
        target, start = self._config.kl_target, self._config.kl_weight
        if target is not None and figures["kl"] is not None:
            steered = self.beta * (_STEER if figures["kl"] > target else 1 / _STEER)
            # Bounded, so that a long start below the target is not paid back later.
            self.beta = min(max(steered, start / _STEER_RANGE), start * _STEER_RANGE)
        if figures["reward"] is not None:
            shown = TrainingStep(step, self._config.steps, "reward", figures["reward"])
            self.report(shown)

    def saved(self, checkpoint: Path) -> None:
        """Store the record beside a checkpoint, and mark that as whole."""
        self._record.seconds = self.seconds()
        content = asdict(self._record) | {"kl_weight": self.beta}
        text = json.dumps(content, ensure_ascii=False)
        distributed.on_main(lambda: write_atomically(checkpoint / _LOG_FILE, text.encode()))
        super().saved(checkpoint)

    def seconds(self) -> float:
        """Time of training and measuring so far, that of earlier processes included."""
        return self._watch.seconds()

    def tuning_state(self) -> TuningState:
        """Losses and seconds when the record was last stored."""
        return self._record.state()


def train_against(
    start_policy: PreTrainedModel,
    base: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    tokenize: Tokenize,
    judge: Judge,
    ends: frozenset[int],
    config: PolicyConfig,
    folder: TuningFolder | None,
    measure: Measure | None,
    reporter: Reporter,
    watch: Watch,
) -> tuple[PeftModel, PolicyLog]:
    """Train adapters on ``start_policy``, perhaps from a checkpoint; random states are restored.

    Args:
        start_policy: The policy before training, a copy of the base; its weights stay.
        base: Where it comes from.
        prompts: ``n_batches * batch_size`` prompts in their order.
        tokenize: Token ids that the policy reads of a prompt.
        judge: Rewards of continuations.
        ends: Tokens that end a continuation.
        config: Settings.
        folder: Of the checkpoints; None keeps none.
        measure: Same as in :class:`Recorded`.
        reporter: Same as in :class:`Recorded`.
        watch: What follows the training.

    Returns:
        The peft model around ``start_policy``, and what was recorded.

    Raises:
        InputError: trl, peft or datasets is missing, the policy diverged, or it did not change.
    """
    checkpoint, record, kl_weight = _start(folder, config)
    trl, datasets = training_packages()
    trainer_class, kind = _algorithm(trl, config)
    surroundings = trainer_surroundings(folder, len(record.steps), config.seed, watch)
    with surroundings as (scratch, log):

        class PolicyTrainer(Recorded, trainer_class):  # type: ignore[misc, valid-type]
            """One of trl's trainers; defined here because trl may be missing."""

        trainer = PolicyTrainer(
            config=config,
            record=record,
            kl_weight=kl_weight,
            prompts=prompts,
            tokenize=tokenize,
            ends=ends,
            measure=measure,
            log=log,
            reporter=reporter,
            tracking=watch.tracking,
            callbacks=list(watch.callbacks),
            model=start_policy,
            reward_funcs=_reward_function(prompts, judge, config, record),
            args=_arguments(kind, config, base, ends, folder, scratch),
            # Prompts by their numbers: trl would render messages itself, with thoughts and dates.
            train_dataset=datasets.Dataset.from_dict({"prompt": [*map(str, range(len(prompts)))]}),
            processing_class=_own_tokenizer(base, ends),
            peft_config=lora_config(config, "CAUSAL_LM", start_policy),
        )
        _count_positions(trainer.model, start_policy)
        check = ChangeCheck(trainer.model)
        trainer.train(resume_from_checkpoint=checkpoint)
        check.require_change(trainer.model, config)
        record.seconds = trainer.seconds()
        return trainer.model, PolicyLog(**distributed.on_main(lambda: asdict(record)))


def _algorithm(trl: ModuleType, config: PolicyConfig) -> tuple[type, type]:
    """The trainer of trl and the class of its arguments."""
    if config.algorithm == "grpo":
        return trl.GRPOTrainer, trl.GRPOConfig
    return trl.RLOOTrainer, trl.RLOOConfig


def _own_tokenizer(base: LoadedModel, ends: frozenset[int]) -> PreTrainedTokenizerBase:
    """A copy for trl, which writes a padding token into it; with an EOS, which trl needs."""
    tokenizer = copy.deepcopy(base.tokenizer)
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(min(ends))
    return tokenizer


def _reward_function(
    prompts: Sequence[Prompt], judge: Judge, config: PolicyConfig, record: PolicyLog
) -> Callable[..., list[float]]:
    """What trl calls with the continuations of a batch; it notes some of them."""
    rows_of = prompts

    def reward(
        prompts: list[str],
        completion_ids: list[list[int]],
        *,
        log_metric: Callable[[str, float], None],
        trainer_state: TrainerState,
        **_: object,
    ) -> list[float]:
        asked = [rows_of[int(row)] for row in prompts]
        judged = judge(asked, completion_ids)
        repeated = [repetition(ids) for ids in completion_ids]
        log_metric("repetition", sum(repeated) / len(repeated))
        unfinished = [not one.finished for one, _ in judged]
        log_metric("unfinished", sum(unfinished) / len(unfinished))
        step = int(trainer_state.global_step)
        # A step without new continuations has none to show; those of the next batch are.
        if step % config.sample_steps < config.num_iterations and distributed.is_main():
            record.samples += [
                {
                    "step": step,
                    "prompt": prompt_text(prompt),
                    "continuation": one.text,
                    "reward": value,
                }
                for prompt, (one, value) in list(zip(asked, judged, strict=True))[:N_SAMPLES]
            ]
        return [value for _, value in judged]

    return reward


def _count_positions(policy: PeftModel, model: PreTrainedModel) -> None:
    """Let positions begin after the padding, which stands on the left.

    trl passes no positions, and a model with absolute ones (GPT-2) would then be trained at others
    than it samples at.
    """
    if "position_ids" not in inspect.signature(type(model).forward).parameters:
        return  # such models derive them from the mask, or have none

    def add(
        _: torch.nn.Module, arguments: tuple[object, ...], named: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        mask = named.get("attention_mask")
        if isinstance(mask, torch.Tensor) and named.get("position_ids") is None:
            named = {**named, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        return arguments, named

    policy.register_forward_pre_hook(add, with_kwargs=True)


def _arguments(
    kind: type[GRPOConfig],
    config: PolicyConfig,
    base: LoadedModel,
    ends: frozenset[int],
    folder: TuningFolder | None,
    scratch: Path,
) -> GRPOConfig:
    """Arguments of one of trl's trainers of reinforcement learning."""
    size = distributed.world_size()
    passes = config.n_passes_of(size)
    return trainer_arguments(
        kind,
        config,
        base,
        config.steps,
        folder.checkpoints if folder else None,
        scratch,
        per_device_train_batch_size=config.n_episodes_of(size) // passes,
        gradient_accumulation_steps=passes,
        generation_kwargs={
            "eos_token_id": sorted(ends),
            "min_new_tokens": config.min_new_tokens or None,
        },
        save_steps=config.checkpoint_steps,
        logging_strategy="steps",
        logging_steps=1,
        **known_arguments(kind, algorithm_arguments(config, base.model)),
    )


def _start(
    folder: TuningFolder | None, config: PolicyConfig
) -> tuple[str | None, PolicyLog, float]:
    """The last checkpoint, what was recorded by then, and the weight of the divergence."""
    found = folder.last_checkpoint() if folder else None
    if found is None:
        return None, PolicyLog(), config.kl_weight
    log, kl_weight = _read_log(found[0])
    return str(found[0]), log, kl_weight


def _read_log(checkpoint: Path) -> tuple[PolicyLog, float]:
    content = read_object(checkpoint / _LOG_FILE, f"delete the folder {checkpoint}")
    log = read_log(content, content.objects("samples"))
    log.seconds = content.number("seconds", 0)
    return log, content.number("kl_weight", 0)
