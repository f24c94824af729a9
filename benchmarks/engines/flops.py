"""Floating-point operations of a leave-one-out plan, which no implementation can avoid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from icm_fast.model.kv_size import head_dim
from icm_fast.plan.leave_one_out import LeaveOneOutPlan

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Flops:
    """Operations of one evaluation; a multiplication and an addition count as two.

    Attributes:
        linear: Matrix products of the layers; the language-model head is left out.
        attention: Dot products of queries with the keys they see, and sums of values.
    """

    linear: int
    attention: int

    @property
    def total(self) -> int:
        """All operations."""
        return self.linear + self.attention


def plan_flops(plan: LeaveOneOutPlan, config: PretrainedConfig) -> Flops:
    """Operations of a plan on a model of this configuration."""
    tree = plan.tree
    heads = config.num_attention_heads * head_dim(config)
    keys = sum(keys_seen(tree.start, tree.n_tokens, window) for window in layer_windows(config))
    return Flops(
        linear=2 * layer_weights(config) * int(tree.total_tokens),
        attention=4 * heads * keys,
    )


def keys_seen(start: Integers, n_tokens: Integers, window: int | None) -> int:
    """Keys that the tokens of all segments see in one layer, including their own.

    Args:
        start: ``[n_segments]`` tokens before each segment in its context.
        n_tokens: ``[n_segments]`` tokens of each segment.
        window: Maximum number of keys that a token sees; None for all.
    """
    ends = start + n_tokens
    return int((_seen_before(ends, window) - _seen_before(start, window)).sum())


def _seen_before(position: Integers, window: int | None) -> Integers:
    """Keys seen by all tokens before ``position`` in one context: min(p + 1, window) each."""
    free = position if window is None else np.minimum(position, window)
    rising: Integers = free * (free + 1) // 2
    return rising if window is None else rising + (position - free) * window


def layer_windows(config: PretrainedConfig) -> list[int | None]:
    """Sliding window of each layer, None if a token sees everything before it."""
    window = getattr(config, "sliding_window", None) or None
    kinds: Sequence[str] | None = getattr(config, "layer_types", None)
    if kinds is None:
        return [window] * int(config.num_hidden_layers)
    return [window if kind == "sliding_attention" else None for kind in kinds]


def layer_weights(config: PretrainedConfig) -> int:
    """Weights of all matrices in the layers, without embeddings and head; nothing is allocated."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    matrices = [p for layer in model.base_model.layers for p in layer.parameters() if p.ndim == 2]
    return sum(p.numel() for p in matrices)
