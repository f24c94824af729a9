"""Segments over one pool, and attention options, for every implementation of tree attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from icm_fast.kernels.tree_attention import AttentionWork
from icm_fast.kernels.tree_attention.random_case import Sizes, random_case

USUAL_SIZES = Sizes()


@dataclass
class Case:
    query: torch.Tensor  # [heads, tokens, dim]
    keys: torch.Tensor  # [kv_heads, pool, dim]
    values: torch.Tensor  # [kv_heads, pool, value_dim]
    work: AttentionWork
    used: torch.Tensor  # [pool] bool: slots of some segment; all others hold NaN


def make_case(
    segments: Sequence[tuple[Sequence[int], int]],
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    sizes: Sizes = USUAL_SIZES,
) -> Case:
    """A pool for ``segments`` = [(ancestor lengths, own length)]; unused slots are NaN."""
    return Case(*random_case(segments, sizes, dtype, seed))


ROOT = ((), 7)
ONE_TOKEN = ((5, 3), 1)
DEEP = ((3, 1, 4, 1, 5, 9, 2, 6, 1, 1, 2), 5)
SHAPES: dict[str, list[tuple[Sequence[int], int]]] = {
    "root": [ROOT],
    "single first token": [((), 1)],
    "one token": [ONE_TOKEN],
    "deep": [DEEP],
    "odd batch": [((13,), 11), ONE_TOKEN, ROOT, DEEP, ((1,), 1), ((1, 17), 3)],
}
SINKS = torch.tensor([0.3, -1.0, 2.0, 0.0])
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"scaling": 0.7},
    "window 1": {"sliding_window": 1},
    "window 2": {"sliding_window": 2},
    "window 5": {"sliding_window": 5},
    "window beyond": {"sliding_window": 1000},
    "softcap": {"softcap": 1.5},
    "softcap and window": {"softcap": 1.5, "sliding_window": 4},
    "sinks": {"sinks": SINKS},
    "sinks and window": {"sinks": SINKS, "sliding_window": 3},
}
