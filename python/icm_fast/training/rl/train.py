"""Training a policy against a reward model: deterministic, resumable, the base stays as it is."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icm_fast import distributed
from icm_fast.engine.progress import Quiet
from icm_fast.errors import InputError
from icm_fast.files import write_atomically
from icm_fast.files.fields import read_object, read_object_lines
from icm_fast.identity import as_stored, json_digest
from icm_fast.model.load import load_model
from icm_fast.model.loaded import LoadedModel, ModelSpec
from icm_fast.tracking import TrackLike
from icm_fast.training.adapted import adapter_figures
from icm_fast.training.chat import Prompt, check_format, check_prompt, prompt_key, prompt_text
from icm_fast.training.folder import TuningFolder, version_keys
from icm_fast.training.reward.model import RewardModel, load_reward_model
from icm_fast.training.rl.algorithm import PACKAGES, algorithm_arguments
from icm_fast.training.rl.config import PolicyConfig
from icm_fast.training.rl.diagnostics import HeldOut
from icm_fast.training.rl.generation import (
    Continuation,
    end_tokens,
    prompt_ids,
    read_continuation,
)
from icm_fast.training.rl.trainer import PolicyLog, Record, read_log, train_against
from icm_fast.training.session import Trained, save_adapter, train_or_resume
from icm_fast.training.sft.train import (
    load_made,
    resolve_checkpointing,
    trainable,
    with_adapters,
)
from icm_fast.training.sharded import unsharded
from icm_fast.training.watch import Watch, watching
from icm_fast.types import Reporter

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import TrainerCallback

HISTORY_FILE = "history.json"
SAMPLES_FILE = "samples.jsonl"
_PACKAGES = ("trl", "peft")
_TRAIN_AGAIN = "train again in another folder"


@dataclass(frozen=True, slots=True, eq=False)
class TrainedPolicy:
    """A policy and how it came about.

    Attributes:
        model: The policy with its adapters merged; every scorer and ``generate`` take it.
        log: Figures of every step, measurements of held-out prompts, samples.
        held_out: Prompts that were not trained on.
        folder: Output folder, None without one; a name that ``model=`` takes.
    """

    model: LoadedModel
    log: PolicyLog
    held_out: tuple[Prompt, ...]
    folder: Path | None


def train_policy(
    prompts: Sequence[Prompt],
    *,
    model: ModelSpec,
    reward: RewardModel | str | os.PathLike[str],
    config: PolicyConfig | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    progress: Reporter | None = None,
    track: TrackLike = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainedPolicy:
    """Optimise a policy against a reward model.

    The same arguments, number of threads and machine give the same weights, bit for bit. Several
    processes (``accelerate launch``, ``torchrun``) share each step's episodes and draw their own
    random numbers; so the number of processes counts as an argument. The first one measures and
    writes.

    Args:
        prompts: What the policy answers (texts, or messages of which the last is the user's), or
            continues; ``config.n_held_out`` of them are drawn for measurements and never trained
            on.
        model: The start policy: hub id, folder, .gguf file, embedded name, (model, tokenizer) pair
            or loaded model. Its weights are not changed.
        reward: A reward model, or the folder of its training.
        config: Settings; the defaults when absent.
        output_dir: Folder of ``tuning.json``, the adapter, ``history.json`` (figures of each step,
            measurements) and ``samples.jsonl``. A training that was interrupted there resumes from
            its last checkpoint, a finished one is loaded. Without it nothing is kept on disk.
        progress: Shows the steps and their mean rewards.
        track: Called with each step, or names trackers; see :mod:`icm_fast.tracking`.
        callbacks: Callbacks of transformers, for its trainer. They may watch: a resumed training
            does not know what they change.

    Raises:
        InputError: Bad input, a package is missing, or the folder is that of another training or
            in use.
    """
    config = config or PolicyConfig()
    config.n_episodes_of(distributed.world_size())
    distributed.start()
    base = load_model(model)
    check_format(config.format, base.tokenizer)
    prompts = [check_prompt(prompt, f"prompt {k}") for k, prompt in enumerate(prompts, start=1)]
    if not end_tokens(base) | config.form.ends(base.tokenizer):
        raise InputError(
            f"the tokenizer of {base.name} has no EOS token, so a policy could not end a text; "
            "set one (tokenizer.eos_token)"
        )
    config = resolve_checkpointing(config, base)
    judge = reward if isinstance(reward, RewardModel) else load_reward_model(reward)
    trained_on, held_out = split_prompts(prompts, config)
    for prompt in prompts:
        _check_length(base, judge, prompt, config)
    job = _Job(base, judge, trained_on, held_out, config)
    folder = None if output_dir is None else Path(output_dir)
    name = f"{base.name}, trained" if folder is None else str(folder)
    logs: list[PolicyLog] = []
    with (
        progress or Quiet() as shown,
        watching(track, callbacks, folder, "rl", config, shown.warn) as watch,
    ):
        policy, _ = train_or_resume(
            folder,
            lambda: _identity(job, prompts),
            lambda opened: _train(job, opened, shown, logs, watch),
            lambda home: load_made(base, home, name),
            packages=_PACKAGES,
        )
    log = logs[0] if logs or folder is None else read_history(folder)
    return TrainedPolicy(policy, log, held_out, folder)


def split_prompts(
    prompts: Sequence[Prompt], config: PolicyConfig
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Prompts of all batches in their order, and those that are held out.

    Every prompt that is not held out comes once before any comes twice.

    Raises:
        InputError: Too few prompts, or one of them twice.
    """
    counts = Counter(map(prompt_key, prompts))
    if len(counts) < len(prompts):
        twice = next(prompt for prompt in prompts if counts[prompt_key(prompt)] > 1)
        raise InputError(f"the prompt {prompt_text(twice)[:60]!r} appears twice; keep one of them")
    if len(prompts) <= config.n_held_out:
        raise InputError(
            f"n_held_out is {config.n_held_out}, but there are only {len(prompts)} prompts, which "
            "leaves none for training; lower n_held_out, or pass more prompts"
        )
    random = np.random.Generator(np.random.Philox(key=[config.seed, 1]))
    order = [prompts[int(k)] for k in random.permutation(len(prompts))]
    held_out, others = order[: config.n_held_out], order[config.n_held_out :]
    wanted = config.n_batches * config.batch_size
    drawn: list[Prompt] = []
    while len(drawn) < wanted:
        drawn += [others[int(k)] for k in random.permutation(len(others))]
    return tuple(drawn[:wanted]), tuple(held_out)


def write_history(folder: Path, log: PolicyLog) -> None:
    """Write ``history.json`` and ``samples.jsonl``; both hold no times, so they can be compared."""
    history = {"steps": log.steps, "measurements": log.measurements}
    text = json.dumps(history, indent=1, ensure_ascii=False) + "\n"
    lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in log.samples)
    write_atomically(folder / SAMPLES_FILE, lines.encode())
    write_atomically(folder / HISTORY_FILE, text.encode())


def read_history(folder: Path) -> PolicyLog:
    """Read back what :func:`write_history` wrote.

    Raises:
        InputError: A file is missing or damaged.
    """
    history = read_object(folder / HISTORY_FILE, _TRAIN_AGAIN)
    samples = read_object_lines(folder / SAMPLES_FILE, _TRAIN_AGAIN)
    return read_log(history, samples)


@dataclass(frozen=True, slots=True)
class _Job:
    """What a training is made of."""

    base: LoadedModel
    reward: RewardModel
    prompts: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    config: PolicyConfig

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a continuation."""
        return end_tokens(self.base) | self.config.form.ends(self.base.tokenizer)

    def read(self, prompt: Prompt) -> tuple[int, ...]:
        """What the policy reads of a prompt."""
        return self.config.form.read_ids(self.base.tokenizer, prompt)

    def judge(
        self, prompts: Sequence[Prompt], tokens: Sequence[Sequence[int]]
    ) -> list[tuple[Continuation, float]]:
        """Continuations and their rewards: the model's, less what unfinished ones cost.

        The reward model reads them as it did in its training.
        """
        made = [
            read_continuation(self.base, self.read(prompt), list(ids), self.ends)
            for prompt, ids in zip(prompts, tokens, strict=True)
        ]
        answers = [
            self._fitting(*self.config.form.answered(prompt, one.text))
            for prompt, one in zip(prompts, made, strict=True)
        ]
        values = self.reward.score_answers(*zip(*answers, strict=True))
        penalty = self.config.unfinished_penalty
        return [
            (one, float(value) - penalty * (not one.finished))
            for one, value in zip(made, values, strict=True)
        ]

    def _fitting(self, prompt: Prompt, answer: str) -> tuple[Prompt, str]:
        """The beginning of an answer that the reward model can read; all of it but in rare cases.

        The reward model's tokens may be more than the policy's.
        """
        while len(self.reward.answer_ids(prompt, answer)) > self.reward.max_context:
            answer = answer[: -max(1, len(answer) // 20)]
        return prompt, answer

    def tokens_digest(self, prompts: Sequence[Prompt]) -> str:
        """SHA-256 over what the policy reads and where it stops."""
        content = [[self.read(prompt) for prompt in prompts], sorted(self.ends)]
        return json_digest(content)

    def measure(self, policy: PeftModel, step: int) -> Record:
        """Look at held-out prompts with a policy in training."""
        training = policy.training
        policy.eval()
        try:
            return HeldOut(self.held_out, self.reward, self.config).measure(
                LoadedModel(
                    "policy in training",
                    policy.get_base_model(),
                    self.base.tokenizer,
                    "",
                    self.base.max_context,
                ),
                step,
                policy.disable_adapter(),
            )
        finally:
            policy.train(training)


def _train(
    job: _Job,
    folder: TuningFolder | None,
    reporter: Reporter,
    logs: list[PolicyLog],
    watch: Watch,
) -> Trained[LoadedModel]:
    """Train adapters; put the record into ``logs``, for the history on disk has no times."""
    base, config = job.base, job.config
    trained, log = train_against(
        trainable(base, config),
        base,
        job.prompts,
        tokenize=job.read,
        judge=job.judge,
        ends=job.ends,
        config=config,
        folder=folder,
        measure=job.measure if job.held_out else None,
        reporter=reporter,
        watch=watch,
    )
    logs.append(log)
    trained = unsharded(trained, lambda: with_adapters(trainable(base, config), config))
    final = folder.folder if folder else None
    return Trained(
        log.state(),
        lambda made: save_adapter(trained, made, base.name, final),
        figures=adapter_figures(trained),
        write_more=lambda home: write_history(home, log),
    )


def _check_length(
    base: LoadedModel, judge: RewardModel, prompt: Prompt, config: PolicyConfig
) -> None:
    """Raise InputError where a prompt leaves no room for a continuation."""
    prompt_ids(base, config.form.read_ids(base.tokenizer, prompt), config.max_new_tokens)
    n_tokens = len(judge.answer_ids(*config.form.answered(prompt, "")))
    if n_tokens + config.max_new_tokens > judge.max_context:
        raise InputError(
            f"the prompt {prompt_text(prompt)[:40]!r} has {n_tokens} tokens, which with "
            f"{config.max_new_tokens} new ones exceeds the {judge.max_context} of the reward model "
            f"{judge.name}; shorten it, or lower max_new_tokens"
        )


def _identity(job: _Job, prompts: Sequence[Prompt]) -> dict[str, object]:
    return as_stored(
        {
            "config": job.config.to_dict(),
            "trl_arguments": algorithm_arguments(job.config, job.base.model),
            **version_keys(PACKAGES),
            "n_prompts": len(prompts),
            "data_digest": json_digest(list(prompts)),
            "model_fingerprint": job.base.fingerprint,
            "model_dtype": job.base.dtype_name,
            "model_computation": job.base.computation,
            "reward_fingerprint": job.reward.fingerprint,
            "tokens_digest": job.tokens_digest(prompts),
            # Each process draws its own random numbers.
            "n_processes": distributed.world_size(),
        }
    )
