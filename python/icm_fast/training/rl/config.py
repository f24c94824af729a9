"""Every setting of a policy's training against a reward model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from icm_fast.config import Between, Offered, OneOf, Switch
from icm_fast.errors import InputError, shown, suggest
from icm_fast.training.chat import CHAT, FORMATS, PLAIN
from icm_fast.training.config import METHODS, TrainingConfig
from icm_fast.training.rl.prompts import CONTINUATION, KINDS, PromptForm

ALGORITHMS = ("grpo", "rloo")
LOSS_TYPES = ("dapo", "grpo", "dr_grpo", "bnpo")
SCALES = {"grpo": ("group", "batch", "none"), "rloo": ("none", "batch")}
"""Of what the spread scales advantages; the first one of an algorithm is its default."""

LEVELS = ("token", "sequence")
_OF_GRPO = ("loss_type", "delta", "importance_sampling_level", "use_bias_correction_kl")
_OF_ITERATIONS = ("epsilon", "epsilon_high", "delta", "importance_sampling_level")


@dataclass(frozen=True, slots=True)
class _Scale(OneOf):
    """What scales advantages; which words fit is checked together with the algorithm."""

    def read(self, name: str, value: object) -> object:
        """Return the value as it is."""
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig(TrainingConfig):
    """Settings of reinforcement learning: those of every training, and these.

    A step draws ``batch_size`` prompts and samples ``group_size`` continuations of each: that many
    episodes, of all processes together. The advantage of one is its reward against those of its
    group.

    Attributes:
        method: ``lora``; without its adapters the policy is the start policy.
        lora_dropout: 0: a policy learns as it samples.
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
        format: What the policy reads: ``plain`` (Human: and Assistant:) or ``chat``, its
            tokenizer's template. A reward model reads the format it was trained in.
        num_iterations: Updates from the same continuations.
        epsilon: Ratios of probabilities, against the policy that sampled, count up to 1 +- this.
            The first update from a batch has ratios of 1, so this needs ``num_iterations`` above 1;
            so do the next two and ``importance_sampling_level``.
        epsilon_high: The upper bound alone (DAPO has 0.28); None: that of ``epsilon``.
        delta: ``grpo``: upper bound of ratios also where the advantage is negative; None for none.
        loss_type: ``grpo``: how losses of tokens are averaged: ``dapo`` (over all tokens of a
            step), ``grpo`` (within each continuation first), ``dr_grpo`` (by a constant) or
            ``bnpo`` (over the tokens of a pass).
        scale_rewards: Spread by which advantages are divided: of the ``group``, the ``batch``, or
            ``none``. None: ``group`` for ``grpo``, ``none`` for ``rloo``.
        importance_sampling_level: ``grpo``: ratios of each ``token`` or of a whole ``sequence``
            (GSPO).
        use_bias_correction_kl: ``grpo``: weigh the divergence by the ratios, for an unbiased
            gradient (DeepSeek-V3.2).
        mask_truncated_completions: Learn nothing from continuations that have not ended.
        n_held_out: Prompts that are never trained on; the policy is measured on them.
        eval_steps: Steps between two measurements; the first one is before training.
        sample_steps: Steps between two entries of the table of samples.
    """

    LATER: ClassVar[frozenset[str]] = TrainingConfig.LATER.union(
        (
            *("num_iterations", "epsilon", "epsilon_high", "delta", "loss_type"),
            *("scale_rewards", "importance_sampling_level", "use_bias_correction_kl"),
            "mask_truncated_completions",
        )
    )

    method: Annotated[str, Offered(OneOf(("lora",)), OneOf(METHODS))] = "lora"
    lora_dropout: Annotated[float, Offered(Between(0.0, 0.0), Between(0.0, 0.99))] = 0.0
    algorithm: Annotated[str, OneOf(ALGORITHMS)] = "grpo"
    kind: Annotated[str, OneOf(KINDS)] = "dialogue"
    steps: Annotated[int, Between(1, 10_000_000)] = 100
    group_size: Annotated[int, Between(2, 65536)] = 4
    micro_batch_size: Annotated[int, Between(1, 1_000_000)] = 32
    max_new_tokens: Annotated[int, Between(1, 10**6)] = 64
    min_new_tokens: Annotated[int, Between(0, 10**6)] = 0
    temperature: Annotated[float, Between(1e-3, 100.0)] = 1.0
    top_p: Annotated[float, Between(1e-6, 1.0)] = 1.0
    kl_weight: Annotated[float, Between(0.0, 1e6)] = 0.05
    kl_target: Annotated[float | None, Between(1e-9, 1e6)] = None
    format: Annotated[str, OneOf(FORMATS)] = PLAIN
    num_iterations: Annotated[int, Between(1, 10_000)] = 1
    epsilon: Annotated[float, Between(1e-6, 1.0)] = 0.2
    epsilon_high: Annotated[float | None, Between(1e-6, 1e6)] = None
    delta: Annotated[float | None, Between(1e-6, 1e6)] = None
    loss_type: Annotated[str, OneOf(LOSS_TYPES)] = "dapo"
    scale_rewards: Annotated[str | None, _Scale(SCALES["grpo"])] = None
    importance_sampling_level: Annotated[str, OneOf(LEVELS)] = "token"
    use_bias_correction_kl: Annotated[bool, Switch()] = True
    mask_truncated_completions: Annotated[bool, Switch()] = False
    unfinished_penalty: Annotated[float, Between(0.0, 1e6)] = 0.0
    n_held_out: Annotated[int, Between(0, 1_000_000)] = 64
    eval_steps: Annotated[int, Between(1, 10**9)] = 20
    sample_steps: Annotated[int, Between(1, 10**9)] = 10

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)  # super() fails in a class with slots
        self._check_policy()
        self._check_algorithm()

    def _check_policy(self) -> None:
        """Raise InputError where a policy could not be trained so."""
        if self.kl_target is not None and self.kl_weight == 0:
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
        if self.format == CHAT and self.kind == CONTINUATION:
            raise InputError(
                f"format={CHAT} answers a message, and kind={CONTINUATION} continues a text; set "
                f"format={PLAIN}, or kind=dialogue"
            )

    def _check_algorithm(self) -> None:
        """Resolve ``scale_rewards``, and refuse settings that would have no effect."""
        scales = SCALES[self.algorithm]
        if self.scale_rewards is None:
            object.__setattr__(self, "scale_rewards", scales[0])
        if self.scale_rewards not in scales:
            raise InputError(
                f"unknown scale_rewards {shown(self.scale_rewards)} for algorithm={self.algorithm}"
                f"{suggest(str(self.scale_rewards), scales)}"
            )
        changed = [name for name in self.LATER if getattr(self, name) != _DEFAULTS[name]]
        for name in _OF_GRPO:
            if self.algorithm != "grpo" and name in changed:
                raise InputError(
                    f"{name} is a setting of algorithm=grpo; remove it, or set algorithm=grpo"
                )
        for name in _OF_ITERATIONS:
            if self.num_iterations == 1 and name in changed:
                raise InputError(
                    f"{name} = {getattr(self, name)} has no effect with num_iterations = 1, where "
                    "every ratio of probabilities is 1; raise num_iterations, or remove it"
                )
        if self.steps % self.num_iterations:
            nearest = self.num_iterations * math.ceil(self.steps / self.num_iterations)
            raise InputError(
                f"steps = {self.steps} is not a multiple of num_iterations = "
                f"{self.num_iterations}; set it to {nearest}"
            )

    def to_dict(self) -> dict[str, object]:
        """Return the resolved settings as plain JSON types; of :attr:`LATER` those that are set."""
        content = TrainingConfig.to_dict(self)
        if self.scale_rewards == SCALES[self.algorithm][0]:
            content.pop("scale_rewards", None)
        return content

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Self:
        """Build from YAML content; an unknown key is an error that names the nearest one."""
        if "clip" in content:
            raise InputError(
                "clip is called epsilon now, and takes effect with num_iterations above 1; remove "
                "it, or set epsilon"
            )
        return super(PolicyConfig, cls).from_mapping(content)

    @property
    def form(self) -> PromptForm:
        """How prompts are read and answers judged."""
        return PromptForm(self.kind, self.format)

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

    @property
    def n_batches(self) -> int:
        """Batches of continuations that are sampled, each for ``num_iterations`` steps."""
        return self.steps // self.num_iterations

    @property
    def checkpoint_steps(self) -> int:
        """Steps between checkpoints: ``save_steps``, to the end of the updates from a batch.

        Continuations are not stored, so a training cannot resume among its updates from them.
        """
        return self.num_iterations * math.ceil(self.save_steps / self.num_iterations)


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(PolicyConfig)}
