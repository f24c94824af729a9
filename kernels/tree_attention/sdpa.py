"""Tree attention with torch's scaled_dot_product_attention, one call per segment."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from icm_fast.kernels.tree_attention import naive
from icm_fast.kernels.tree_attention.work import AttentionWork, SegmentWork


def tree_attention(
    query: torch.Tensor,
    key_pool: torch.Tensor,
    value_pool: torch.Tensor,
    work: AttentionWork,
    *,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Same contract as :func:`icm_fast.kernels.tree_attention.naive.tree_attention`.

    torch's operator has neither soft-capped scores nor sinks; with them, the naive one is used.
    """
    if softcap or sinks is not None:
        return naive.tree_attention(
            query,
            key_pool,
            value_pool,
            work,
            scaling=scaling,
            sliding_window=sliding_window,
            softcap=softcap,
            sinks=sinks,
        )
    out = query.new_empty(query.shape[0], work.n_tokens, value_pool.shape[-1])
    for segment in work.segments:
        out[:, segment.begin : segment.end] = _segment(
            query, key_pool, value_pool, segment, scaling, sliding_window
        )
    return out


def _segment(
    query: torch.Tensor,
    key_pool: torch.Tensor,
    value_pool: torch.Tensor,
    segment: SegmentWork,
    scaling: float,
    sliding_window: int | None,
) -> torch.Tensor:
    length = segment.end - segment.begin
    hidden = max(0, segment.start - sliding_window + 1) if sliding_window else 0
    slots = [*_skip(segment.ranges, hidden), (segment.own, segment.own + length)]
    keys = torch.cat([key_pool[:, a:b] for a, b in slots], dim=1)
    values = torch.cat([value_pool[:, a:b] for a, b in slots], dim=1)
    mask = naive.visibility(segment, sliding_window, query.device)[:, hidden:]
    return F.scaled_dot_product_attention(
        query[None, :, segment.begin : segment.end],
        keys[None],
        values[None],
        attn_mask=None if length == 1 and not sliding_window else mask,
        scale=scaling,
        enable_gqa=query.shape[0] != keys.shape[0],
    )[0]


def _skip(ranges: tuple[tuple[int, int], ...], n_tokens: int) -> list[tuple[int, int]]:
    """Drop the first ``n_tokens`` slots: no query of the segment sees them."""
    kept = []
    for begin, end in ranges:
        cut = min(n_tokens, end - begin)
        n_tokens -= cut
        if begin + cut < end:
            kept.append((begin + cut, end))
    return kept
