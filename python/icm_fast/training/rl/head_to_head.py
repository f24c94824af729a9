"""Two policies against each other: how often a judge prefers what the first one writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from icm_fast.config import check_number
from icm_fast.engine.progress import Quiet
from icm_fast.errors import InputError
from icm_fast.evaluation.metrics import mean_interval
from icm_fast.model.load import load_model
from icm_fast.model.loaded import LoadedModel, ModelSpec
from icm_fast.tasks.rows import PathLike
from icm_fast.tasks.sampling import digest
from icm_fast.training.reward.evaluation import Figure
from icm_fast.training.reward.model import RewardModel, load_reward_model
from icm_fast.training.rl.generation import Continuation, generate, prompt_ids
from icm_fast.training.rl.judges import TIE, Bout, Verdicts, judge_by_claims, judge_by_rewards
from icm_fast.training.rl.outcome import BoutRow, HeadToHead, Side
from icm_fast.training.rl.prompts import (
    DIALOGUE,
    PromptSet,
    check_kind,
    policy_text,
    read_prompts,
    response_of,
)
from icm_fast.types import FloatArray, Reporter

_OUTCOMES = {1.0: "a", TIE: "tie", 0.0: "b"}


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
    prompts: PathLike | Sequence[str] | PromptSet,
    kind: str = DIALOGUE,
    max_new_tokens: int = 128,
    samples: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    min_new_tokens: int = 0,
    seed: int = 0,
    tie_margin: float = 0.0,
    batch_size: int = 16,
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
        max_new_tokens: Maximum number of tokens of a continuation.
        samples: Continuations of each policy for each prompt.
        temperature: 0 takes the likeliest token, and then allows one sample.
        top_p: Same as in ``generate``.
        min_new_tokens: Same as in ``generate``.
        seed: Seed of draws and resamples.
        tie_margin: Scores that differ by no more are a tie.
        batch_size: Texts in one forward pass.
        progress: Says what is done next.

    Raises:
        InputError: A setting out of range, or models or prompts that cannot be read or used.
    """
    _check(kind, samples, temperature, tie_margin)
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
    match = _Match(policies, judge, kind, drawing, samples, seed, tie_margin, batch_size)
    with progress or Quiet() as shown:
        return match.play(chosen, shown)


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
    kind: str
    drawing: _Drawing
    samples: int
    seed: int
    tie_margin: float
    batch_size: int

    def play(self, chosen: PromptSet, reporter: Reporter) -> HeadToHead:
        """Let the policies write, and the judge decide."""
        prompts = [prompt for prompt in chosen.prompts for _ in range(self.samples)]
        written = self._write(prompts, reporter)
        reporter.say(f"{self.judge.name} judges them")
        bouts = [Bout(p, x.text, y.text) for p, x, y in zip(prompts, *written, strict=True)]
        verdicts = self._judge(bouts)
        points, scores = verdicts.points, verdicts.scores
        return HeadToHead(
            a=_side(self.policies[0], written[0], int((points == 1).sum())),
            b=_side(self.policies[1], written[1], int((points == 0).sum())),
            judge=self.judge.name,
            judge_fingerprint=self.judge.fingerprint,
            settings=self._settings(),
            n_prompts=len(chosen.prompts),
            n_repeated=chosen.n_repeated,
            n_ties=int((points == TIE).sum()),
            win_rate=_figure(points, prompts, self.seed),
            mean_difference=_figure(scores[:, 0] - scores[:, 1], prompts, self.seed),
            order_gap=verdicts.order_gap,
            order_disagreement=verdicts.order_disagreement,
            samples=_rows(self.kind, bouts, written, verdicts),
        )

    def _write(self, prompts: Sequence[str], reporter: Reporter) -> list[list[Continuation]]:
        """What each policy writes after the prompts."""
        texts = [policy_text(self.kind, prompt) for prompt in prompts]
        for policy in self.policies:  # refuse a prompt that is too long before any time is spent
            for text in texts[:: self.samples]:
                prompt_ids(policy, text, self.drawing["max_new_tokens"])
        written = []
        for policy in self.policies:
            reporter.say(f"{policy.name} writes {len(texts)} texts")
            # torch takes seeds of 63 bits
            seed = digest("policy", self.seed, policy.fingerprint) >> 1
            written.append(
                generate(policy, texts, seed=seed, batch_size=self.batch_size, **self.drawing)
            )
        return written

    def _judge(self, bouts: Sequence[Bout]) -> Verdicts:
        judge, margin = self.judge, self.tie_margin
        if isinstance(judge, LoadedModel):
            return judge_by_claims(judge, self.kind, bouts, tie_margin=margin)
        return judge_by_rewards(
            judge, self.kind, bouts, tie_margin=margin, batch_size=self.batch_size
        )

    def _settings(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            **self.drawing,
            "samples": self.samples,
            "seed": self.seed,
            "tie_margin": self.tie_margin,
            "batch_size": self.batch_size,
        }


def _prompt_set(prompts: PathLike | Sequence[str] | PromptSet) -> PromptSet:
    if isinstance(prompts, PromptSet):
        return prompts
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        return read_prompts(prompts)
    once = tuple(dict.fromkeys(prompts))
    if not once:
        raise InputError("there are no prompts to compare policies on; pass at least one")
    return PromptSet(once, len(prompts) - len(once))


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
            "prompt": bout.prompt,
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
