"""Segments with random numbers over one pool, to compare implementations of tree attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from icm_fast.kernels.tree_attention.work import AttentionWork, SegmentWork


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of heads and widths of their rows."""

    heads: int = 4
    kv_heads: int = 2
    dim: int = 8
    value_dim: int = 6


class RandomCase(NamedTuple):
    """Arguments of an attention, on the CPU.

    Attributes:
        query: ``[heads, n_tokens, dim]``.
        keys: ``[kv_heads, n_slots, dim]``; NaN in slots that no segment uses.
        values: ``[kv_heads, n_slots, value_dim]``; likewise.
        work: The segments.
        used: ``[n_slots]`` bool, slots that some segment uses.
    """

    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    work: AttentionWork
    used: torch.Tensor


def random_case(
    segments: Sequence[tuple[Sequence[int], int]], sizes: Sizes, dtype: torch.dtype, seed: int = 0
) -> RandomCase:
    """A case for ``segments`` = [(lengths of the ancestors' ranges, own length)].

    The pool has holes, and a context's ranges are not in pool order.
    """
    works, row, slot = [], 0, 0
    for ancestors, length in segments:
        ranges = []
        for ancestor in ancestors:
            slot += 1  # a hole
            ranges.append((slot, slot + ancestor))
            slot += ancestor
        slot += 2
        ranges = ranges[1::2] + ranges[::2]
        works.append(SegmentWork(row, row + length, tuple(ranges), slot, sum(ancestors)))
        row, slot = row + length, slot + length
    n_slots = slot + 3
    used = torch.zeros(n_slots, dtype=torch.bool)
    for work in works:
        for begin, end in (*work.ranges, (work.own, work.own + work.end - work.begin)):
            used[begin:end] = True
    generator = torch.Generator().manual_seed(seed)
    query, keys, values = (
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in (
            (sizes.heads, row, sizes.dim),
            (sizes.kv_heads, n_slots, sizes.dim),
            (sizes.kv_heads, n_slots, sizes.value_dim),
        )
    )
    for pool in (keys, values):
        pool[:, ~used] = math.nan
    return RandomCase(query, keys, values, AttentionWork(tuple(works), row), used)
