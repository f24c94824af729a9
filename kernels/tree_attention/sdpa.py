"""Tree attention with torch's scaled_dot_product_attention, one call per segment."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from icm_fast.kernels.tree_attention import naive
from icm_fast.kernels.tree_attention.work import AttentionWork, SegmentWork

_FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""For devices: cuDNN is left out, since it builds a plan for every new shape, and each segment has
another one."""


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
    slots = segment.ranges_seen(sliding_window)
    keys = torch.cat([key_pool[:, a:b] for a, b in slots], dim=1)
    values = torch.cat([value_pool[:, a:b] for a, b in slots], dim=1)
    rows = query[None, :, segment.begin : segment.end]
    if not _masks_grouped_heads(query.device):
        return _fused(rows, keys[None], values[None], segment, scaling, sliding_window)[0]
    mask = naive.visibility(segment, sliding_window)[:, hidden:]
    return F.scaled_dot_product_attention(
        rows,
        keys[None],
        values[None],
        attn_mask=None if length == 1 and not sliding_window else mask,
        scale=scaling,
        enable_gqa=query.shape[0] != keys.shape[0],
    )[0]


def _masks_grouped_heads(device: torch.device) -> bool:
    """Whether torch has a kernel for masks with grouped heads that keeps no scores."""
    return str(device.type) == "cpu"


def _fused(
    rows: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    segment: SegmentWork,
    scaling: float,
    sliding_window: int | None,
) -> torch.Tensor:
    """One segment by a kernel that materialises no scores, ``[1, n_heads, length, value_dim]``.

    For devices, where torch has none for a mask with grouped heads. So keys and values are repeated
    over the group, and the mask is the causal one of the last rows, which the kernels know; only
    with a window is there a mask in memory, ``[length, keys]``.

    Args:
        rows: ``[1, n_heads, length, head_dim]``.
        keys: ``[1, n_kv_heads, n_keys, head_dim]``, those that the segment sees.
        values: ``[1, n_kv_heads, n_keys, value_dim]``.
        segment: The segment.
        scaling: Factor on the dot products.
        sliding_window: As in ``naive.tree_attention``.
    """
    group, n_keys = rows.shape[1] // keys.shape[1], keys.shape[2]
    if group > 1:
        keys, values = (pool.repeat_interleave(group, 1) for pool in (keys, values))
    length = rows.shape[2]
    bias = causal_lower_right(length, n_keys)
    if sliding_window:
        bias = naive.visibility(segment, sliding_window, rows.device)[:, -n_keys:]
    with sdpa_kernel(_FUSED):
        return F.scaled_dot_product_attention(rows, keys, values, attn_mask=bias, scale=scaling)
