"""Tree attention by libraries that take sequences of different lengths side by side (varlen).

They know no shared ranges, so every segment's keys and values are copied side by side first, the
shared ones once for each segment that sees them. A segment's rows are the last of its sequence,
and the mask of all these libraries is then the causal one, aligned to the last row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch

from icm_fast.kernels.one_copy import one_copy
from icm_fast.kernels.tree_attention.work import (
    AttentionWork,
    SegmentWork,
    check_tensors,
    check_work,
)

COPIED_BYTES = 1 << 30
"""Maximum size of copied keys and values at a time, but for a single segment that needs more."""

INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Sequences:
    """Consecutive segments whose keys are copied at a time.

    Attributes:
        rows: Their rows in the batch.
        slots: ``[n_keys]`` int32, pool slots of their keys, segment after segment.
        row_offsets: ``[n_segments + 1]`` int32, where each segment's rows begin.
        key_offsets: ``[n_segments + 1]`` int32, where each segment's keys begin.
        longest_rows: Rows of the longest segment.
        longest_keys: Keys of the segment with the most.
    """

    rows: slice
    slots: torch.Tensor
    row_offsets: torch.Tensor
    key_offsets: torch.Tensor
    longest_rows: int
    longest_keys: int


class VarlenLibrary(Protocol):
    """Causal attention of sequences; rows are the last ones of each."""

    def __call__(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        sequences: Sequences,
        *,
        scaling: float,
        sliding_window: int | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """``[n_rows, n_heads, value_dim]`` of ``[n_rows, n_heads, head_dim]`` and such keys."""


def tree_attention(
    query: torch.Tensor,
    key_pool: torch.Tensor,
    value_pool: torch.Tensor,
    work: AttentionWork,
    *,
    scaling: float,
    library: VarlenLibrary,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    copied_bytes: int = COPIED_BYTES,
) -> torch.Tensor:
    """Same contract as :func:`icm_fast.kernels.tree_attention.naive.tree_attention`.

    Args:
        query: ``[n_heads, n_tokens, head_dim]``.
        key_pool: ``[n_kv_heads, pool_tokens, head_dim]``.
        value_pool: ``[n_kv_heads, pool_tokens, value_dim]``.
        work: The segments.
        scaling: Factor on the dot products.
        library: What attends.
        sliding_window: A query at position p sees keys at positions > p - sliding_window.
        softcap: Scores become ``softcap * tanh(score / softcap)``.
        sinks: ``[n_heads]`` logits that enter the softmax without a value.
        copied_bytes: Maximum size of copied keys and values; segments that need more take turns.

    Raises:
        ValueError: Shapes, dtypes, ranges or slots do not match, or the library has no such option.
    """
    check_tensors(query, key_pool, value_pool, sinks)
    n_heads, n_tokens, _ = query.shape
    kv_heads, pool_tokens, value_dim = value_pool.shape
    key_bytes = kv_heads * (key_pool.shape[2] + value_dim) * key_pool.element_size()
    max_keys = max(1, min(copied_bytes // key_bytes, INT32_MAX))
    plan = ("varlen", sliding_window, max_keys, key_pool.device)
    parts = work.plans.get(plan)
    if parts is None:
        check_work(work, n_tokens, pool_tokens)
        parts = work.plans[plan] = _parts(work, sliding_window, max_keys, key_pool.device)
    assert isinstance(parts, tuple)
    by_token = query.transpose(0, 1)
    if by_token.stride(-1) != 1:
        by_token = by_token.contiguous()
    outs = [query.new_empty(0, n_heads, value_dim)]
    for part in parts:
        # The rows of a pool's head stay side by side: a stride between heads costs nothing.
        keys, values = (
            p.index_select(1, part.slots).transpose(0, 1) for p in (key_pool, value_pool)
        )
        with torch.cuda.device_of(query):  # some launch on the current device
            out = library(
                by_token[part.rows],
                keys,
                values,
                part,
                scaling=scaling,
                sliding_window=sliding_window,
                softcap=softcap,
                sinks=sinks,
            )
        outs.append(out)
    return (outs[1] if len(outs) == 2 else torch.cat(outs)).transpose(0, 1)


def _parts(
    work: AttentionWork, sliding_window: int | None, max_keys: int, device: torch.device
) -> tuple[Sequences, ...]:
    """Cut a batch so that no part has more than ``max_keys`` keys, or it is a single segment."""
    parts, group, n_keys = [], list[SegmentWork](), 0
    for segment in work.segments:
        if segment.begin == segment.end:
            continue  # no rows; libraries that see an empty sequence may take the others for wrong
        seen = sum(end - begin for begin, end in segment.ranges_seen(sliding_window))
        if group and n_keys + seen > max_keys:
            parts.append(_sequences(group, sliding_window, device))
            group, n_keys = [], 0
        group.append(segment)
        n_keys += seen
    if group:
        parts.append(_sequences(group, sliding_window, device))
    return tuple(parts)


def _sequences(
    segments: Sequence[SegmentWork], sliding_window: int | None, device: torch.device
) -> Sequences:
    slots = [
        np.concatenate([np.arange(*r, dtype=np.int32) for r in s.ranges_seen(sliding_window)])
        for s in segments
    ]
    n_rows, n_keys = [s.end - s.begin for s in segments], [len(keys) for keys in slots]
    offsets = [np.array([0, *accumulate(n)], np.int32) for n in (n_rows, n_keys)]
    there, row_offsets, key_offsets = one_copy([np.concatenate(slots), *offsets], device)
    rows = slice(segments[0].begin, segments[-1].end)
    return Sequences(rows, there, row_offsets, key_offsets, max(n_rows), max(n_keys))


def flash_attn(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    sequences: Sequences,
    *,
    scaling: float,
    sliding_window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """FlashAttention-2 of the package flash-attn, as its ``flash_attn_varlen_func`` documents."""
    if sinks is not None:
        raise ValueError("flash-attn has no sinks")
    from flash_attn import flash_attn_varlen_func

    out: torch.Tensor = flash_attn_varlen_func(
        query,
        keys,
        values,
        sequences.row_offsets,
        sequences.key_offsets,
        sequences.longest_rows,
        sequences.longest_keys,
        softmax_scale=scaling,
        causal=True,
        window_size=(sliding_window - 1, 0) if sliding_window else (-1, -1),
        softcap=softcap or 0.0,
    )
    return out


def flash_attn_4(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    sequences: Sequences,
    *,
    scaling: float,
    sliding_window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """FlashAttention-4 (CuTe) of the package flash-attn-4, by its ``flash_attn_varlen_func``.

    One split for all, its default: otherwise a row's sums would depend on the rest of the batch.
    """
    from flash_attn.cute import flash_attn_varlen_func

    out: Any = flash_attn_varlen_func(
        query,
        keys,
        values,
        cu_seqlens_q=sequences.row_offsets,
        cu_seqlens_k=sequences.key_offsets,
        max_seqlen_q=sequences.longest_rows,
        max_seqlen_k=sequences.longest_keys,
        softmax_scale=scaling,
        causal=True,
        window_size=(sliding_window - 1, 0) if sliding_window else (None, None),
        learnable_sink=sinks,
        softcap=softcap or 0.0,
    )
    found: torch.Tensor = out[0] if isinstance(out, tuple) else out  # with the log-sum-exp
    return found


def _flash_operator() -> Any:
    return torch.ops.aten._flash_attention_forward


def torch_flash(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    sequences: Sequences,
    *,
    scaling: float,
    sliding_window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """FlashAttention-2 as torch has it: what ``torch.nn.attention.varlen`` calls, on all torch."""
    if softcap or sinks is not None:
        raise ValueError("torch's FlashAttention has neither soft-capped scores nor sinks")
    out: torch.Tensor = _flash_operator()(
        query,
        keys,
        values,
        sequences.row_offsets,
        sequences.key_offsets,
        sequences.longest_rows,
        sequences.longest_keys,
        0.0,
        True,
        False,
        scale=scaling,
        window_size_left=sliding_window - 1 if sliding_window else None,
        window_size_right=0 if sliding_window else None,
    )[0]
    return out
