"""Tree attention in Triton: checks, the plan of each launch, and the launches.

:mod:`.triton_kernels` defines what a program does, :mod:`.work_list` which programs there are.
"""

from __future__ import annotations

import torch

from icm_fast.kernels.tree_attention.tiles import (
    EVERY_LENGTH,
    Tile,
    TilePair,
    TileShare,
    default_tiles,
    padded,
    shares_of,
    target_of,
)
from icm_fast.kernels.tree_attention.triton_kernels import merge_kernel, tree_attention_kernel
from icm_fast.kernels.tree_attention.tuned_tiles import HeadShape, stored_tiles
from icm_fast.kernels.tree_attention.work import AttentionWork, check_tensors
from icm_fast.kernels.tree_attention.work_list import LaunchPlan, PlanSettings, launch_plan
from icm_fast.kernels.triton_devices import INTERPRETED

MERGE_ROWS = 16
"""Rows of a split tile per program of the merge."""

MERGE_WARPS = 4


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
    tile: Tile | None = None,
    n_sms: int = 0,
) -> torch.Tensor:
    """Same contract as :func:`icm_fast.kernels.tree_attention.naive.tree_attention`.

    Args:
        query: ``[n_heads, n_tokens, head_dim]`` with contiguous rows and any other strides.
        key_pool: ``[n_kv_heads, pool_tokens, head_dim]``, same dtype.
        value_pool: ``[n_kv_heads, pool_tokens, value_dim]``, same dtype.
        work: The segments.
        scaling: Factor on the dot products.
        sliding_window: A query at position p sees keys at positions > p - sliding_window.
        softcap: Scores become ``softcap * tanh(score / softcap)``.
        sinks: ``[n_heads]`` logits that enter the softmax without a value.
        tile: Tile for all segments; by default those of :func:`device_tiles`, by the length of
            each segment.
        n_sms: Multiprocessors to fill by splitting long tiles; 0 for no splits. Splits depend on
            the whole batch, and so do a row's last bits then; by default they do not.

    Returns:
        ``[n_heads, n_tokens, value_dim]`` in the dtype of ``query``, laid out token by token.

    Raises:
        ValueError: If shapes or dtypes do not match, a head is too wide, or the work exceeds the
            pool.
        InputError: If stored tiles are damaged.
    """
    check_tensors(query, key_pool, value_pool, sinks)
    n_heads, n_tokens, head_dim = query.shape
    kv_heads, pool_tokens, value_dim = value_pool.shape
    group = n_heads // kv_heads
    # The output projection reads it token by token.
    out = query.new_empty(n_tokens, n_heads, value_dim).transpose(0, 1)
    if not n_tokens:
        return out
    if tile is None:
        shape = HeadShape(group, head_dim, value_dim, query.dtype)
        shares = shares_of(device_tiles(shape, query.device))
    else:
        shares = (TileShare(tile, EVERY_LENGTH),)
    plans = [
        launch_plan(
            work,
            PlanSettings(
                group=group,
                kv_heads=kv_heads,
                block_m=share.tile.block_m,
                block_n=share.tile.block_n,
                lengths=share.lengths,
                sliding_window=sliding_window,
                n_sms=n_sms,
                device=query.device,
            ),
        )
        for share in shares
    ]
    slot_end = max(plan.slot_end for plan in plans)
    if work.n_tokens != n_tokens or slot_end > pool_tokens:
        raise ValueError(
            f"work of {work.n_tokens} rows and slots below {slot_end} does not fit a query "
            f"of {n_tokens} rows and a pool of {pool_tokens} slots"
        )
    tensors = (_rows(query), _rows(key_pool), _rows(value_pool), out)
    options = (scaling, sliding_window or 0, softcap or 0.0, sinks)
    with torch.cuda.device_of(query):  # Triton launches on the current device
        for plan, share in zip(plans, shares, strict=True):
            if len(plan.items):
                _launch(*tensors, plan, share.tile, *options)
    return out


def device_tiles(shape: HeadShape, device: torch.device) -> TilePair:
    """Tiles of a shape on a device: those found by timing, otherwise the defaults of tiles.py."""
    stored = stored_tiles(shape, device)
    if stored is not None:
        return stored
    interpreted = device.type == "cpu"
    major, minor = (8, 0) if interpreted else torch.cuda.get_device_capability(device)
    return default_tiles(
        max(shape.head_dim, shape.value_dim), shape.dtype, target_of((major, minor))
    )


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous rows; those of transformers' projections already are."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _launch(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    out: torch.Tensor,
    plan: LaunchPlan,
    tile: Tile,
    scaling: float,
    window: int,
    softcap: float,
    sinks: torch.Tensor | None,
) -> None:
    kv_heads, group = keys.shape[0], query.shape[0] // keys.shape[0]
    value_dim = values.shape[2]
    partial_out = out.new_empty(
        plan.n_partials, kv_heads, tile.block_m, value_dim, dtype=torch.float32
    )
    partial_lse = partial_out.new_empty(plan.n_partials, kv_heads, tile.block_m)
    # The kernel needs some pointer; without sinks it is never read.
    sink_logits = partial_lse if sinks is None else sinks.float().contiguous()
    tree_attention_kernel[(len(plan.items) * kv_heads,)](
        query,
        keys,
        values,
        out,
        partial_out,
        partial_lse,
        sink_logits,
        plan.items,
        plan.blocks,
        scaling,
        softcap,
        window,
        kv_heads,
        *query.stride()[:2],
        *keys.stride()[:2],
        *values.stride()[:2],
        *out.stride()[:2],
        GROUP=group,
        HEAD_DIM=query.shape[2],
        VALUE_DIM=value_dim,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        BLOCK_D=padded(query.shape[2]),
        BLOCK_V=padded(value_dim),
        HAS_WINDOW=bool(window),
        HAS_SOFTCAP=bool(softcap),
        HAS_SINKS=sinks is not None,
        INTERPRET=INTERPRETED,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        enable_fp_fusion=True,
    )
    if not plan.n_partials:
        return
    merge_rows = min(MERGE_ROWS, tile.block_m)
    merge_kernel[(len(plan.merges) * kv_heads, tile.block_m // merge_rows)](
        out,
        partial_out,
        partial_lse,
        sink_logits,
        plan.merges,
        kv_heads,
        *out.stride()[:2],
        GROUP=group,
        VALUE_DIM=value_dim,
        BLOCK_M=tile.block_m,
        ROWS=merge_rows,
        BLOCK_V=padded(value_dim),
        HAS_SINKS=sinks is not None,
        num_warps=MERGE_WARPS,
        enable_fp_fusion=True,
    )
