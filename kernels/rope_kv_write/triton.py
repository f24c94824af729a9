"""Rotation and pool write in Triton: one pass over queries, keys and values."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK_T = 16
"""Tokens of a program."""

NUM_WARPS = 4


def rope_kv_write(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    key_pool: torch.Tensor,
    value_pool: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """Same contract as :func:`icm_fast.kernels.rope_kv_write.naive.rope_kv_write`.

    Rows may have any strides but must be contiguous themselves, in the pools too. The result is
    laid out token by token. The plan guarantees that slots are inside the pools; the device
    does not check.

    Raises:
        ValueError: If widths or dtypes do not match, or a row is not contiguous.
    """
    _check(query, key, value, cos, sin, key_pool, value_pool)
    n_heads, n_tokens, head_dim = query.shape
    out = query.new_empty(n_tokens, n_heads, head_dim).transpose(0, 1)
    if n_tokens:
        with torch.cuda.device_of(query):  # Triton launches on the current device
            _launch(query, key, value, cos, sin, out, key_pool, value_pool, slots)
    return out


def _launch(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    out: torch.Tensor,
    key_pool: torch.Tensor,
    value_pool: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    n_heads, n_tokens, head_dim = query.shape
    kv_heads, _, value_dim = value.shape
    half = cos.shape[-1] // 2
    rope_kv_write_kernel[(triton.cdiv(n_tokens, BLOCK_T), n_heads + kv_heads)](
        query,
        key,
        value,
        cos.contiguous(),
        sin.contiguous(),
        out,
        key_pool,
        value_pool,
        slots,
        n_tokens,
        n_heads,
        *query.stride()[:2],
        *key.stride()[:2],
        *value.stride()[:2],
        *out.stride()[:2],
        *key_pool.stride()[:2],
        *value_pool.stride()[:2],
        HEAD_DIM=head_dim,
        VALUE_DIM=value_dim,
        HALF=half,
        BLOCK_T=BLOCK_T,
        BLOCK_HALF=triton.next_power_of_2(half),
        BLOCK_REST=triton.next_power_of_2(max(1, head_dim - 2 * half)),
        BLOCK_V=triton.next_power_of_2(value_dim),
        num_warps=NUM_WARPS,
        enable_fp_fusion=True,
    )


def _check(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    key_pool: torch.Tensor,
    value_pool: torch.Tensor,
) -> None:
    width = cos.shape[-1]
    if not query.shape[-1] == key.shape[-1] == key_pool.shape[-1]:
        raise ValueError("queries, keys and their pool differ in width")
    if value.shape[-1] != value_pool.shape[-1] or key.shape[0] != key_pool.shape[0]:
        raise ValueError("values or heads do not fit the pools")
    if cos.shape != sin.shape or width % 2 or not 0 < width <= query.shape[-1]:
        raise ValueError(f"cos {tuple(cos.shape)}, sin {tuple(sin.shape)} for {query.shape[-1]}")
    if len({t.dtype for t in (query, key, key_pool)}) > 1 or value.dtype != value_pool.dtype:
        raise ValueError("dtypes of queries, keys, values and pools differ")
    if any(t.stride(-1) != 1 for t in (query, key, value, key_pool, value_pool)):
        raise ValueError("rows of queries, keys, values and pools must be contiguous")


@triton.jit
def rope_kv_write_kernel(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    cos: tl.tensor,  # [n_tokens, 2 * HALF]
    sin: tl.tensor,
    out: tl.tensor,
    key_pool: tl.tensor,
    value_pool: tl.tensor,
    slots: tl.tensor,  # [n_tokens] int64
    n_tokens: tl.tensor,
    n_heads: tl.tensor,
    query_head_stride: tl.tensor,
    query_token_stride: tl.tensor,
    key_head_stride: tl.tensor,
    key_token_stride: tl.tensor,
    value_head_stride: tl.tensor,
    value_token_stride: tl.tensor,
    out_head_stride: tl.tensor,
    out_token_stride: tl.tensor,
    key_pool_head_stride: tl.tensor,
    key_pool_slot_stride: tl.tensor,
    value_pool_head_stride: tl.tensor,
    value_pool_slot_stride: tl.tensor,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_REST: tl.constexpr,
    BLOCK_V: tl.constexpr,
) -> None:
    """Some tokens of one head; programs: (token tiles, query heads then key-value heads)."""
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    inside = token < n_tokens
    token = token.to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    if head < n_heads:
        source = query + head * query_head_stride + token * query_token_stride
        target = out + head * out_head_stride + token * out_token_stride
        _rotate(source, target, cos, sin, token, inside, HEAD_DIM, HALF, BLOCK_HALF, BLOCK_REST)
    else:
        head -= n_heads
        slot = tl.load(slots + token, mask=inside, other=0)
        source = key + head * key_head_stride + token * key_token_stride
        target = key_pool + head * key_pool_head_stride + slot * key_pool_slot_stride
        _rotate(source, target, cos, sin, token, inside, HEAD_DIM, HALF, BLOCK_HALF, BLOCK_REST)
        source = value + head * value_head_stride + token * value_token_stride
        target = value_pool + head * value_pool_head_stride + slot * value_pool_slot_stride
        _copy(source, target, inside, 0, VALUE_DIM, BLOCK_V)


@triton.jit
def _rotate(
    source: tl.tensor,  # [BLOCK_T] pointers to rows
    target: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    token: tl.tensor,
    inside: tl.tensor,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_REST: tl.constexpr,
) -> None:
    """Turn the first ``2 * HALF`` features of each row, copy the others."""
    lanes = tl.arange(0, BLOCK_HALF)[None, :]
    there = inside[:, None] & (lanes < HALF)
    angle = token[:, None] * (2 * HALF) + lanes
    first = tl.load(source[:, None] + lanes, mask=there, other=0.0).to(tl.float32)
    second = tl.load(source[:, None] + HALF + lanes, mask=there, other=0.0).to(tl.float32)
    cos_first = tl.load(cos + angle, mask=there, other=0.0).to(tl.float32)
    sin_first = tl.load(sin + angle, mask=there, other=0.0).to(tl.float32)
    cos_second = tl.load(cos + angle + HALF, mask=there, other=0.0).to(tl.float32)
    sin_second = tl.load(sin + angle + HALF, mask=there, other=0.0).to(tl.float32)
    dtype = target.dtype.element_ty
    turned = (first * cos_first - second * sin_first).to(dtype)
    tl.store(target[:, None] + lanes, turned, mask=there)
    turned = (second * cos_second + first * sin_second).to(dtype)
    tl.store(target[:, None] + HALF + lanes, turned, mask=there)
    if HEAD_DIM > 2 * HALF:
        _copy(source, target, inside, 2 * HALF, HEAD_DIM - 2 * HALF, BLOCK_REST)


@triton.jit
def _copy(
    source: tl.tensor,
    target: tl.tensor,
    inside: tl.tensor,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Copy features ``FIRST`` to ``FIRST + WIDTH`` of each row."""
    lanes = tl.arange(0, BLOCK)[None, :]
    there = inside[:, None] & (lanes < WIDTH)
    row = tl.load(source[:, None] + FIRST + lanes, mask=there)
    tl.store(target[:, None] + FIRST + lanes, row, mask=there)
