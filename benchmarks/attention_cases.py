"""The attention of one batch in the middle of a tree, and implementations of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from icm_fast import _core
from icm_fast.kernels.tree_attention import AttentionWork, naive, sdpa
from icm_fast.model.forward.tile_search import batch_work
from icm_fast.plan.uniform import uniform_plan

THREADS = int(os.environ.get("ICM_FAST_BENCH_THREADS", "2"))
EXAMPLES = int(os.environ.get("ICM_FAST_BENCH_EXAMPLES", "64"))
TOKENS = 40
"""Tokens of one demonstration, about as in TruthfulQA."""

HEADS = {"smollm2": (9, 3, 64), "gemma3-270m": (4, 1, 256), "qwen2.5-1.5b": (12, 2, 128)}
"""Query heads, key-value heads and width of a head."""


@dataclass(frozen=True)
class Batch:
    """Inputs of one layer.

    Attributes:
        query: ``[heads, tokens, dim]``.
        keys: ``[kv_heads, pool, dim]``.
        values: ``[kv_heads, pool, dim]``.
        work: The segments.
    """

    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    work: AttentionWork

    @property
    def scaling(self) -> float:
        return float(self.query.shape[-1] ** -0.5)

    @property
    def flops(self) -> int:
        """Dot products with the keys that each query sees, and sums of values."""
        heads, _, dim = self.query.shape
        keys = sum(
            position + 1
            for s in self.work.segments
            for position in range(s.start, s.start + s.end - s.begin)
        )
        return int(4 * heads * dim * keys)


def mid_tree_batch(model: str, dtype: str, n: int = EXAMPLES) -> Batch:
    """Random queries, keys and values for the batch in the middle of the plan of n examples."""
    heads, kv_heads, dim = HEADS[model]
    tree = uniform_plan(n, demonstration=TOKENS, query=TOKENS - 1)
    work = batch_work(tree, tree.n_batches // 2)
    generator = torch.Generator().manual_seed(0)
    shapes = [(heads, work.n_tokens), (kv_heads, tree.pool_tokens), (kv_heads, tree.pool_tokens)]
    query, keys, values = (
        torch.randn(*shape, dim, generator=generator).to(getattr(torch, dtype)) for shape in shapes
    )
    return Batch(query, keys, values, work)


def by_definition(batch: Batch) -> torch.Tensor:
    """The naive implementation in float32, ``[heads, tokens, dim]``."""
    query, keys, values = (t.float() for t in (batch.query, batch.keys, batch.values))
    return naive.tree_attention(query, keys, values, batch.work, scaling=batch.scaling)


Attend = Callable[[], torch.Tensor]
"""Computes ``[heads, tokens, dim]``; one-time preparation is not timed."""


def with_native(batch: Batch) -> Attend:
    """Our kernel; it takes and returns float32, so its conversions are timed too."""
    dtype = str(batch.query.dtype).removeprefix("torch.")
    attention = _core.TreeAttention(dtype, THREADS)
    heads, slots, dim = batch.keys.shape
    pool = attention.make_pool(n_layers=1, n_heads=heads, head_dim=dim, n_slots=slots)
    pool.write(0, _rows(batch.keys), _rows(batch.values), np.arange(slots))
    query, segments = _rows(batch.query), _segment_arrays(batch.work)

    def attend() -> torch.Tensor:
        out = attention.attend(
            pool, 0, query, **segments, scaling=batch.scaling, window=0, softcap=0.0, sinks=None
        )
        return torch.from_numpy(out).transpose(0, 1)

    return attend


def _rows(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    rows: npt.NDArray[np.float32] = tensor.float().transpose(0, 1).contiguous().numpy()
    return rows


def _segment_arrays(work: AttentionWork) -> dict[str, npt.NDArray[np.int64]]:
    ranges = [r for s in work.segments for r in s.ranges]
    return {
        "n_tokens": np.array([s.end - s.begin for s in work.segments], np.int64),
        "own": np.array([s.own for s in work.segments], np.int64),
        "range_offsets": np.cumsum([0, *(len(s.ranges) for s in work.segments)], dtype=np.int64),
        "range_begin": np.array([begin for begin, _ in ranges], np.int64),
        "range_end": np.array([end for _, end in ranges], np.int64),
    }


def with_sdpa(batch: Batch) -> Attend:
    """torch's scaled_dot_product_attention, one call per segment."""
    tensors = (batch.query, batch.keys, batch.values)
    return lambda: sdpa.tree_attention(*tensors, batch.work, scaling=batch.scaling)


def with_flex(batch: Batch) -> Attend:
    """torch's FlexAttention over the whole pool, compiled; its block mask is made once."""
    torch.compiler.reset()  # otherwise graphs of earlier batches count against its limit
    visible = visible_slots(batch)
    mask = create_block_mask(
        lambda b, h, row, slot: visible[row, slot], None, None, *visible.shape, device="cpu"
    )
    compiled = torch.compile(flex_attention)
    query, keys, values = (t[None] for t in (batch.query, batch.keys, batch.values))
    return lambda: compiled(
        query, keys, values, block_mask=mask, scale=batch.scaling, enable_gqa=True
    )[0]


def visible_slots(batch: Batch) -> torch.Tensor:
    """Which slots of the pool each query sees, ``[tokens, pool]`` bool."""
    visible = torch.zeros(batch.work.n_tokens, batch.keys.shape[1], dtype=torch.bool)
    for segment in batch.work.segments:
        length = segment.end - segment.begin
        for begin, end in segment.ranges:
            visible[segment.begin : segment.end, begin:end] = True
        own = slice(segment.own, segment.own + length)
        visible[segment.begin : segment.end, own] = torch.ones(length, length).tril().bool()
    return visible


IMPLEMENTATIONS = {"native": with_native, "sdpa": with_sdpa, "flex": with_flex}
