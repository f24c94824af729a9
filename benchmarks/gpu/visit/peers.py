"""Attention of other libraries over the same segments: FlexAttention, and varlen kernels."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from icm_fast.kernels.tree_attention import AttentionWork, SegmentWork

Attend = Callable[[], torch.Tensor]
"""Computes ``[heads, n_tokens, head_dim]``."""

_NOWHERE = 2**30


def ranges_of(segment: SegmentWork) -> list[tuple[int, int]]:
    """Pool ranges of a segment's context and of itself, in context order."""
    return [*segment.ranges, (segment.own, segment.own + segment.end - segment.begin)]


def by_flex(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, work: AttentionWork
) -> Attend:
    """FlexAttention over the pool, with a block mask that is made once.

    In a tree the segments of a batch that see a slot are side by side, so each slot needs two
    numbers: the first row of the batch that sees it, and one past the last.
    """
    device, n_slots = keys.device, keys.shape[1]
    first = torch.full((n_slots,), _NOWHERE, dtype=torch.int32)
    last = torch.zeros(n_slots, dtype=torch.int32)
    position = torch.full((n_slots,), _NOWHERE, dtype=torch.int32)
    row_position = torch.zeros(work.n_tokens, dtype=torch.int32)
    for segment in work.segments:
        at = 0
        for begin, end in ranges_of(segment):
            first[begin:end] = first[begin:end].clamp(max=segment.begin)
            last[begin:end] = last[begin:end].clamp(min=segment.end)
            position[begin:end] = torch.arange(at, at + end - begin, dtype=torch.int32)
            at += end - begin
        length = segment.end - segment.begin
        row_position[segment.begin : segment.end] = torch.arange(
            segment.start, segment.start + length, dtype=torch.int32
        )
    first, last, position, row_position = (
        t.to(device) for t in (first, last, position, row_position)
    )

    def visible(
        batch: torch.Tensor, head: torch.Tensor, row: torch.Tensor, slot: torch.Tensor
    ) -> torch.Tensor:
        seen = (first[slot] <= row) & (row < last[slot])
        return seen & (position[slot] <= row_position[row])

    on_gpu = device.type == "cuda"
    mask = create_block_mask(
        visible, None, None, work.n_tokens, n_slots, device=device, _compile=on_gpu
    )
    flex = torch.compile(flex_attention, dynamic=False) if on_gpu else flex_attention
    scale = float(query.shape[-1] ** -0.5)
    return lambda: flex(
        query[None], keys[None], values[None], block_mask=mask, scale=scale, enable_gqa=True
    )[0]


class Gathered:
    """Keys and values copied side by side for every segment, for kernels of varlen sequences.

    Attributes:
        n_keys: Keys of all segments together.
    """

    def __init__(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, work: AttentionWork
    ) -> None:
        slots = [torch.arange(b, e) for s in work.segments for b, e in ranges_of(s)]
        self._index = torch.cat(slots).to(keys.device)
        self._query = query.transpose(0, 1).contiguous()
        self._pools = keys, values
        self._rows = [s.end - s.begin for s in work.segments]
        self._lengths = [s.start + s.end - s.begin for s in work.segments]
        self.n_keys = len(self._index)

    def gather(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values ``[n_keys, kv_heads, head_dim]``."""
        keys, values = (p[:, self._index].transpose(0, 1).contiguous() for p in self._pools)
        return keys, values

    def attention(self) -> Attend:
        """FlashAttention-2 as torch has it, on keys that were gathered before.

        On a CPU, which has no varlen kernel, one call of torch's attention for each segment.
        """
        keys, values = self.gather()
        if keys.device.type == "cpu":
            return lambda: self._per_segment(keys, values)
        starts = [
            torch.tensor([0, *accumulate(n)], dtype=torch.int32, device=keys.device)
            for n in (self._rows, self._lengths)
        ]
        scale = float(self._query.shape[-1] ** -0.5)
        longest = max(self._rows), max(self._lengths)
        return lambda: torch.ops.aten._flash_attention_forward(
            self._query, keys, values, *starts, *longest, 0.0, True, False, scale=scale
        )[0].transpose(0, 1)

    def _per_segment(self, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        parts = []
        split = zip(
            self._query.split(self._rows),
            keys.split(self._lengths),
            values.split(self._lengths),
            strict=True,
        )
        for part in split:
            q, k, v = (t.transpose(0, 1)[None] for t in part)
            bias = causal_lower_right(q.shape[2], k.shape[2])
            group = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=bias)[0])
        return torch.cat(parts, dim=1)
