"""Sizes and settings of the assistant's stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from icm_fast.config import check_names, check_number, coerced
from icm_fast.training.reward import RewardConfig
from icm_fast.training.rl import PolicyConfig
from icm_fast.training.sft import TuningConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantConfig:
    """Sizes of the stages.

    Attributes:
        n: Number of reviews to label by a search.
        n_start: Number of longer reviews that teach the start policy to write reviews.
        n_pool: Number of pairs of other reviews that the initial reward models label.
        n_judge: Number of other reviews, whose gold labels train the judge.
        n_test: Number of held-out reviews, paired to measure reward models.
        n_prompts: Number of prompts, the beginnings of further reviews.
        n_words: Number of words in a prompt.
        samples: Continuations of each held-out prompt when policies are compared.
        seed: Seed of every stage.
        start: Settings of the start policy.
        reward: Settings of the reward models.
        policy: Settings of the policies.
    """

    n: int = 64
    n_start: int = 1000
    n_pool: int = 200
    n_judge: int = 300
    n_test: int = 200
    n_prompts: int = 300
    n_words: int = 2
    samples: int = 2
    seed: int = 0
    start: TuningConfig = field(default_factory=lambda: _start_config(0))
    reward: RewardConfig = field(default_factory=lambda: RewardConfig(epochs=2))
    policy: PolicyConfig = field(
        default_factory=lambda: PolicyConfig(
            kind="continuation",
            steps=40,
            max_new_tokens=20,
            n_held_out=100,
            learning_rate=1.5e-3,
            kl_weight=0.1,
            unfinished_penalty=1.0,
        )
    )

    @classmethod
    def from_mappings(cls, sizes: Mapping[str, Any], policy: Mapping[str, Any]) -> AssistantConfig:
        """Build from settings by name; ``policy`` overrides the defaults given here.

        Raises:
            InputError: An unknown name, or a size that is not an integer of 1 or more.
        """
        known = {f.name for f in dataclasses.fields(cls)} - {"start", "reward", "policy"}
        check_names(sizes, known)
        sizes = coerced(cls, sizes)
        for name, value in sizes.items():
            check_number(name, value, 0 if name == "seed" else 1, 10**9)
        seed = sizes.get("seed", 0)
        defaults = cls().policy.to_dict() | {"seed": seed}
        return cls(
            **sizes,
            start=_start_config(seed),
            reward=RewardConfig(epochs=2, seed=seed),
            policy=PolicyConfig.from_mapping({**defaults, **policy}),
        )


def _start_config(seed: int) -> TuningConfig:
    return TuningConfig(epochs=2, batch_size=16, learning_rate=5e-4, seed=seed)
