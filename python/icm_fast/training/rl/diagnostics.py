"""What tells a better policy from one that found a hole in the reward: on held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from icm_fast.evaluation.metrics import mean_interval
from icm_fast.model.loaded import LoadedModel
from icm_fast.training.chat import Prompt, prompt_text
from icm_fast.training.reward.model import RewardModel
from icm_fast.training.rl.config import PolicyConfig
from icm_fast.training.rl.generation import Continuation, Readable, generate, mean_nll

N_GRAM = 3
N_SHOWN = 8


def repetition(ids: Sequence[int]) -> float:
    """Share of the runs of three tokens that came before in the same text; 0 for short ones."""
    runs = [tuple(ids[k : k + N_GRAM]) for k in range(len(ids) - N_GRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def distinct(texts: Sequence[Sequence[int]]) -> float:
    """Share of different pairs of neighbouring tokens among all of them, over all texts."""
    pairs = [pair for ids in texts for pair in pairwise(ids)]
    return len(set(pairs)) / len(pairs) if pairs else 1.0


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Prompts that are not trained on, and who judges what a policy makes of them.

    Attributes:
        prompts: At least one.
        reward: The reward model of the training.
        config: Settings of the training; its seed makes every measurement draw the same numbers.
    """

    prompts: tuple[Prompt, ...]
    reward: RewardModel
    config: PolicyConfig

    def measure(
        self, policy: LoadedModel, step: int, without_adapters: AbstractContextManager[object]
    ) -> dict[str, object]:
        """Sample one continuation of each prompt and look at all of them.

        Args:
            policy: The policy, perhaps in training.
            step: Steps it was trained for.
            without_adapters: Within it the policy is the start policy.

        Returns:
            Plain JSON types: ``reward`` with ``reward_low`` and ``reward_high`` (95 %), ``kl``
            (nats per token against the start policy, estimated from the samples), ``perplexity``
            of the continuations under the start policy, ``length`` in tokens, ``finished`` (share
            that ended by itself), ``repetition``, ``distinct``, and some ``samples``.
        """
        config = self.config
        form = config.form
        read: list[Readable] = [form.read_ids(policy.tokenizer, prompt) for prompt in self.prompts]
        made = generate(
            policy,
            read,
            max_new_tokens=config.max_new_tokens,
            min_new_tokens=config.min_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            seed=config.seed,
            batch_size=config.micro_batch_size,
            more_ends=form.ends(policy.tokenizer),
        )
        rewards = self.reward.score_answers(
            *zip(
                *(form.answered(p, one.text) for p, one in zip(self.prompts, made, strict=True)),
                strict=True,
            )
        )
        under_policy = _token_mean(policy, read, made)
        with without_adapters:
            under_start = _token_mean(policy, read, made)
        low, high = mean_interval(rewards.astype(np.float64))
        ids = [one.token_ids for one in made]
        return {
            "step": step,
            "n": len(made),
            "reward": float(rewards.mean()),
            "reward_low": low,
            "reward_high": high,
            "kl": under_start - under_policy,
            "perplexity": float(np.exp(under_start)),
            "length": float(np.mean([len(one) for one in ids])),
            "finished": float(np.mean([one.finished for one in made])),
            "repetition": float(np.mean([repetition(one) for one in ids])),
            "distinct": distinct(ids),
            "samples": [
                {"prompt": prompt_text(prompt), "continuation": one.text, "reward": float(value)}
                for prompt, one, value in zip(self.prompts, made, rewards, strict=True)
            ][:N_SHOWN],
        }


def _token_mean(model: LoadedModel, read: list[Readable], made: list[Continuation]) -> float:
    """Mean negative log-likelihood of a token, over all continuations."""
    lengths = np.array([len(one.token_ids) for one in made], dtype=np.float64)
    return float(np.average(mean_nll(model, read, made), weights=np.maximum(lengths, 1e-9)))
