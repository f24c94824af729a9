"""Every setting of a policy's training against a reward model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from icm_fast.errors import InputError, suggest
from icm_fast.training.config import Ranges, TrainingConfig, check_ranges
from icm_fast.training.rl.prompts import KINDS

ALGORITHMS = ("grpo", "rloo")

_RANGES: Ranges = (
    ("steps", 1, 10_000_000),
    ("group_size", 2, 65536),
    ("micro_batch_size", 1, 1_000_000),
    ("max_new_tokens", 1, 10**6),
    ("min_new_tokens", 0, 10**6),
    ("temperature", 1e-3, 100.0),
    ("top_p", 1e-6, 1.0),
    ("kl_weight", 0.0, 1e6),
    ("clip", 1e-6, 1e6),
    ("unfinished_penalty", 0.0, 1e6),
    ("n_held_out", 0, 1_000_000),
    ("eval_steps", 1, 10**9),
    ("sample_steps", 1, 10**9),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig(TrainingConfig):
    """Settings of reinforcement learning: those of every training, and these.

    A step draws ``batch_size`` prompts and samples ``group_size`` continuations of each: that many
    episodes, of all processes together. The advantage of one is its reward against those of its
    group.

    Attributes:
        algorithm: ``grpo`` (Shao et al. 2024) or ``rloo`` (Ahmadian et al. 2024), as trl has them.
        kind: What a prompt is: ``dialogue``, a question that is answered, or ``continuation``, the
            beginning of a text that is judged as a whole.
        steps: Updates of the policy.
        group_size: Continuations of each prompt.
        micro_batch_size: Maximum number of continuations in one forward and backward pass of a
            process; a step is split into as many passes as needed.
        max_new_tokens: Longest continuation.
        min_new_tokens: The end of a continuation cannot come earlier. Here and with ``top_p`` the
            advantage goes to the probability that the policy has without that restriction.
        temperature: Of the sampling while training.
        top_p: Sample from the likeliest tokens that hold this share.
        kl_weight: What a nat of divergence from the start policy costs, per token with ``grpo``,
            per continuation with ``rloo``.
        kl_target: After each step the weight rises by a tenth where the divergence is above this,
            and falls by a tenth where it is below, to ten times and a tenth of ``kl_weight`` at
            most; None keeps the weight.
        unfinished_penalty: What is taken off the reward of a continuation that has not ended by
            itself; reward models read it as if it had, and often prefer it.
        clip: Ratios of probabilities count up to 1 +- this.
        n_held_out: Prompts that are never trained on; the policy is measured on them.
        eval_steps: Steps between two measurements; the first one is before training.
        sample_steps: Steps between two entries of the table of samples.
    """

    algorithm: str = "grpo"
    kind: str = "dialogue"
    steps: int = 100
    group_size: int = 4
    micro_batch_size: int = 32
    max_new_tokens: int = 64
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    kl_weight: float = 0.05
    kl_target: float | None = None
    clip: float = 0.2
    unfinished_penalty: float = 0.0
    n_held_out: int = 64
    eval_steps: int = 20
    sample_steps: int = 10

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)  # super() fails in a class with slots
        check_ranges(self, _RANGES)
        for name, known in (("algorithm", ALGORITHMS), ("kind", KINDS)):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"unknown {name} {value!r}{suggest(str(value), known)}")
        if self.kl_target is not None:
            check_ranges(self, (("kl_target", 1e-9, 1e6),))
            if self.kl_weight == 0:
                raise InputError("kl_target steers kl_weight, which is 0; give it a start above 0")
        if self.method != "lora":
            raise InputError(
                "method=full would need a second copy of the policy for the divergence; train "
                "adapters (method=lora): without them the policy is the start policy"
            )
        if self.lora_dropout:
            raise InputError(
                f"lora_dropout = {self.lora_dropout} would train another policy than the one that "
                "samples; set it to 0"
            )
        if self.min_new_tokens > self.max_new_tokens:
            raise InputError(
                f"min_new_tokens = {self.min_new_tokens} is above max_new_tokens = "
                f"{self.max_new_tokens}; lower it"
            )

    @property
    def n_episodes_per_step(self) -> int:
        """Continuations that are sampled in a step."""
        return self.batch_size * self.group_size

    def n_episodes_of(self, n_processes: int) -> int:
        """Continuations that each process samples in a step.

        Raises:
            InputError: They cannot be divided equally.
        """
        each, left = divmod(self.n_episodes_per_step, n_processes)
        if left:
            multiple = n_processes // math.gcd(n_processes, self.group_size)
            nearest = multiple * math.ceil(self.batch_size / multiple)
            raise InputError(
                f"batch_size * group_size = {self.n_episodes_per_step} episodes of a step do not "
                f"divide among {n_processes} processes; set batch_size to {nearest}, or another "
                f"multiple of {multiple}"
            )
        return each

    @property
    def n_passes(self) -> int:
        """Forward and backward passes of a step in one process; a divisor of its episodes."""
        return self.n_passes_of(1)

    def n_passes_of(self, n_processes: int) -> int:
        """Forward and backward passes of a step in each process; a divisor of its episodes."""
        episodes = self.n_episodes_of(n_processes)
        passes = -(-episodes // self.micro_batch_size)
        while episodes % passes:
            passes += 1
        return passes
