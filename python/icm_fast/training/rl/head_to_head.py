"""Two policies against each other: how often a judge prefers what the first one writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from icm_fast.config import check_number
from icm_fast.engine.progress import Quiet
from icm_fast.errors import InputError
from icm_fast.evaluation.metrics import mean_interval
from icm_fast.identity import json_digest
from icm_fast.model.load import load_model
from icm_fast.model.loaded import LoadedModel, ModelSpec
from icm_fast.tasks.rows import PathLike
from icm_fast.tasks.sampling import digest
from icm_fast.training.chat import (
    CHAT,
    PLAIN,
    Prompt,
    check_format,
    check_prompt,
    prompt_key,
    prompt_text,
)
from icm_fast.training.folder import recorded_format
from icm_fast.training.reward.figures import Figure
from icm_fast.training.reward.model import RewardModel, load_reward_model
from icm_fast.training.rl.generation import (
    Continuation,
    Readable,
    end_tokens,
    generate,
    prompt_ids,
)
from icm_fast.training.rl.judges import TIE, Bout, Verdicts, judge_by_claims, judge_by_rewards
from icm_fast.training.rl.outcome import BoutRow, HeadToHead, Side
from icm_fast.training.rl.prompts import (
    DIALOGUE,
    PromptForm,
    PromptSet,
    check_kind,
    read_prompts,
    response_of,
)
from icm_fast.types import FloatArray, Reporter

_OUTCOMES = {1.0: "a", TIE: "tie", 0.0: "b"}

Written = dict[str, list[Continuation]]
"""What policies wrote, by a digest of policy, prompts and settings of the draws."""


class _Drawing(TypedDict):
    """How both policies draw."""

    max_new_tokens: int
    temperature: float
    top_p: float
    min_new_tokens: int


def evaluate_policies(
    a: ModelSpec,
    b: ModelSpec,
    *,
    judge: RewardModel | LoadedModel | PathLike,
    prompts: PathLike | Sequence[Prompt] | PromptSet,
    kind: str = DIALOGUE,
    format: str | Sequence[str] | None = None,
    judge_format: str = PLAIN,
    max_new_tokens: int = 128,
    samples: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    min_new_tokens: int = 0,
    seed: int = 0,
    tie_margin: float = 0.0,
    batch_size: int = 16,
    written: Written | None = None,
    progress: Reporter | None = None,
) -> HeadToHead:
    """Let two policies write after the same prompts, and a judge decide who wrote better.

    What a policy draws depends on the seed and on its own weights alone: with ``a`` and ``b``
    swapped every bout ends the other way round, and a policy against itself only ties.

    Args:
        a: What ``load_model`` takes, folders of fine-tunings too.
        b: The other policy. Both and the judge are in memory together.
        judge: A reward model or the folder of one; or a loaded language model, which receives
            the claim of ``alpaca-preference`` in both orders.
        prompts: A file for ``read_prompts``, or the prompts themselves.
        kind: ``dialogue`` or ``continuation``, see ``policy_text``.
        format: What the policies read: ``plain``, or ``chat``: their tokenizers' templates; one for
            both, or one of each. None: what their trainings recorded, otherwise ``plain``.
        judge_format: The same of a language model that judges; a reward model has its own.
        max_new_tokens: Maximum number of tokens of a continuation.
        samples: Continuations of each policy for each prompt.
        temperature: 0 takes the likeliest token, and then allows one sample.
        top_p: Same as in ``generate``.
        min_new_tokens: Same as in ``generate``.
        seed: Seed of draws and resamples.
        tie_margin: Scores that differ by no more are a tie.
        batch_size: Texts in one forward pass.
        written: Texts of earlier comparisons, of which a policy does not write the same again;
            those of this one are added. A policy needs a fingerprint for that.
        progress: Says what is done next.

    Raises:
        InputError: A setting out of range, or models or prompts that cannot be read or used.
    """
    _check(kind, samples, temperature, tie_margin)
    check_format(judge_format)
    if judge_format != PLAIN and isinstance(judge, RewardModel | str | os.PathLike):
        raise InputError(
            f"judge_format={judge_format} is for a language model that judges; a reward model "
            "reads the format it was trained in, so remove it"
        )
    forms = _forms(kind, format, (a, b))
    chosen = _prompt_set(prompts)
    drawing: _Drawing = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "min_new_tokens": min_new_tokens,
    }
    if not isinstance(judge, RewardModel | LoadedModel):
        judge = load_reward_model(Path(judge))
    policies = (load_model(a), load_model(b))
    for form, policy in zip(forms, policies, strict=True):
        check_format(form.format, policy.tokenizer)
    match = _Match(
        policies,
        judge,
        forms,
        judge_format,
        drawing,
        samples,
        seed,
        tie_margin,
        batch_size,
        {} if written is None else written,
    )
    with progress or Quiet() as shown:
        return match.play(chosen, shown)


def _forms(
    kind: str, format: str | Sequence[str] | None, policies: tuple[ModelSpec, ModelSpec]
) -> tuple[PromptForm, PromptForm]:
    """How each policy reads prompts."""
    if format is None:
        formats = [recorded_format(policy) for policy in policies]
    else:
        formats = [format] * 2 if isinstance(format, str) else list(format)
    if len(formats) != len(policies):
        raise InputError(f"format names {len(formats)} formats for 2 policies; name 1 or 2")
    for one in formats:
        check_format(one)
    if kind != DIALOGUE and CHAT in formats:
        raise InputError(f"format={CHAT} answers a message; set kind={DIALOGUE}, or format={PLAIN}")
    first, second = (PromptForm(kind, one) for one in formats)
    return first, second


def _check(kind: str, samples: int, temperature: float, tie_margin: float) -> None:
    check_kind(kind)
    check_number("samples", samples, 1, 10**6)
    check_number("tie_margin", tie_margin, 0.0, 1e9)
    if samples > 1 and temperature == 0:
        raise InputError(
            f"samples = {samples} at temperature 0 would all be the same; raise the temperature"
        )


@dataclass(frozen=True, slots=True)
class _Match:
    """Two policies, their judge, and all settings; :func:`evaluate_policies` describes them."""

    policies: tuple[LoadedModel, LoadedModel]
    judge: RewardModel | LoadedModel
    forms: tuple[PromptForm, PromptForm]
    judge_format: str
    drawing: _Drawing
    samples: int
    seed: int
    tie_margin: float
    batch_size: int
    written: Written

    def play(self, chosen: PromptSet, reporter: Reporter) -> HeadToHead:
        """Let the policies write, and the judge decide."""
        prompts = [prompt for prompt in chosen.prompts for _ in range(self.samples)]
        written = self._write(prompts, reporter)
        reporter.say(f"{self.judge.name} judges them")
        texts = [
            [form.continuation(one.text) for one in made]
            for form, made in zip(self.forms, written, strict=True)
        ]
        bouts = [Bout(p, x, y) for p, x, y in zip(prompts, *texts, strict=True)]
        verdicts = self._judge(bouts)
        points, scores = verdicts.points, verdicts.scores
        keys = [prompt_key(prompt) for prompt in prompts]
        return HeadToHead(
            a=_side(self.policies[0], written[0], int((points == 1).sum())),
            b=_side(self.policies[1], written[1], int((points == 0).sum())),
            judge=self.judge.name,
            judge_fingerprint=self.judge.fingerprint,
            settings=self._settings(),
            n_prompts=len(chosen.prompts),
            n_repeated=chosen.n_repeated,
            n_ties=int((points == TIE).sum()),
            win_rate=_figure(points, keys, self.seed),
            mean_difference=_figure(scores[:, 0] - scores[:, 1], keys, self.seed),
            order_gap=verdicts.order_gap,
            order_disagreement=verdicts.order_disagreement,
            samples=_rows(self.forms[0].kind, bouts, written, verdicts),
        )

    def _write(self, prompts: Sequence[Prompt], reporter: Reporter) -> list[list[Continuation]]:
        """What each policy writes after the prompts."""
        read: list[list[Readable]] = [
            [form.read_ids(policy.tokenizer, prompt) for prompt in prompts]
            for form, policy in zip(self.forms, self.policies, strict=True)
        ]
        # Refuse a prompt that is too long before any time is spent.
        for policy, texts in zip(self.policies, read, strict=True):
            for text in texts[:: self.samples]:
                prompt_ids(policy, text, self.drawing["max_new_tokens"])
        return [
            self._continuations(form, policy, texts, reporter)
            for form, policy, texts in zip(self.forms, self.policies, read, strict=True)
        ]

    def _continuations(
        self, form: PromptForm, policy: LoadedModel, texts: Sequence[Readable], reporter: Reporter
    ) -> list[Continuation]:
        """What one policy writes, unless it wrote the same before."""
        ends = end_tokens(policy) | form.ends(policy.tokenizer)
        # torch takes seeds of 63 bits
        seed = digest("policy", self.seed, policy.fingerprint) >> 1
        computed = (policy.fingerprint, policy.computation, policy.dtype_name)
        drawn = (list(texts), sorted(ends), seed, self.batch_size, self.drawing)
        key = json_digest([*computed, *drawn])
        if key in self.written and policy.fingerprint:
            return self.written[key]
        reporter.say(f"{policy.name} writes {len(texts)} texts")
        made = generate(
            policy,
            texts,
            seed=seed,
            batch_size=self.batch_size,
            more_ends=ends,
            **self.drawing,
        )
        self.written[key] = made
        return made

    def _judge(self, bouts: Sequence[Bout]) -> Verdicts:
        judge, kind, margin = self.judge, self.forms[0].kind, self.tie_margin
        if isinstance(judge, LoadedModel):
            return judge_by_claims(judge, kind, bouts, tie_margin=margin, format=self.judge_format)
        return judge_by_rewards(judge, kind, bouts, tie_margin=margin, batch_size=self.batch_size)

    def _settings(self) -> dict[str, object]:
        return {
            "kind": self.forms[0].kind,
            "format": [form.format for form in self.forms],
            "judge_format": self.judge_format,
            **self.drawing,
            "samples": self.samples,
            "seed": self.seed,
            "tie_margin": self.tie_margin,
            "batch_size": self.batch_size,
        }


def _prompt_set(prompts: PathLike | Sequence[Prompt] | PromptSet) -> PromptSet:
    if isinstance(prompts, PromptSet):
        return prompts
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        return read_prompts(prompts)
    if not prompts:
        raise InputError("there are no prompts to compare policies on; pass at least one")
    given = [check_prompt(prompt, f"prompt {k}") for k, prompt in enumerate(prompts, start=1)]
    once = tuple({str(prompt): prompt for prompt in given}.values())
    return PromptSet(once, len(given) - len(once))


def _side(policy: LoadedModel, made: Sequence[Continuation], wins: int) -> Side:
    return Side(
        policy.name,
        policy.fingerprint,
        wins,
        mean_tokens=float(np.mean([len(c.token_ids) for c in made])),
        finished=float(np.mean([c.finished for c in made])),
    )


def _figure(values: FloatArray, prompts: Sequence[str], seed: int) -> Figure:
    low, high = mean_interval(values, prompts, seed=seed)
    return Figure(float(values.mean()), low, high, len(values))


def _rows(
    kind: str, bouts: Sequence[Bout], written: Sequence[Sequence[Continuation]], said: Verdicts
) -> tuple[BoutRow, ...]:
    return tuple(
        {
            "prompt": prompt_text(bout.prompt),
            "a": response_of(kind, bout.a),
            "b": response_of(kind, bout.b),
            "score_a": float(scores[0]),
            "score_b": float(scores[1]),
            "outcome": _OUTCOMES[float(points)],
            "tokens_a": len(one.token_ids),
            "tokens_b": len(other.token_ids),
            "finished_a": one.finished,
            "finished_b": other.finished,
        }
        for bout, one, other, scores, points in zip(
            bouts, *written, said.scores, said.points, strict=True
        )
    )
