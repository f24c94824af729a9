"""Segments over one pool, and ways to attend, for every version of tree attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from icm_fast.kernels.tree_attention import AttentionWork, SegmentWork


@dataclass(frozen=True, slots=True)
class Sizes:
    """Heads of a case and the widths of their rows."""

    heads: int = 4
    kv_heads: int = 2
    dim: int = 8
    value_dim: int = 6


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
    sizes: Sizes = Sizes(),
) -> Case:
    """A pool for ``segments`` = [(ancestor lengths, own length)]; what no segment owns is NaN."""
    generator = torch.Generator().manual_seed(seed)
    works, row, slot = [], 0, 0
    for ancestors, length in segments:
        ranges = []
        for ancestor in ancestors:
            slot += 1  # a hole
            ranges.append((slot, slot + ancestor))
            slot += ancestor
        slot += 2
        # The pool does not keep a context's ranges in order.
        ranges = ranges[1::2] + ranges[::2]
        works.append(SegmentWork(row, row + length, tuple(ranges), slot, sum(ancestors)))
        row, slot = row + length, slot + length
    pool = slot + 3
    used = torch.zeros(pool, dtype=torch.bool)
    for work in works:
        for begin, end in (*work.ranges, (work.own, work.own + work.end - work.begin)):
            used[begin:end] = True
    tensors = [
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in (
            (sizes.heads, row, sizes.dim),
            (sizes.kv_heads, pool, sizes.dim),
            (sizes.kv_heads, pool, sizes.value_dim),
        )
    ]
    for poisoned in tensors[1:]:
        poisoned[:, ~used] = math.nan
    return Case(*tensors, AttentionWork(tuple(works), row), used)


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
