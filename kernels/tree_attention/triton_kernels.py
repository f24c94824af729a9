"""Device code of tree attention in Triton: what one program does.

A program takes a tile of rows of one segment under one key-value head. A row is a (token, query
head of the group) pair, so all heads of a group share each load of keys and values, and short
segments fill a tile. It walks the blocks of keys that :mod:`.work_list` wrote down, with the
softmax of FlashAttention-2 (Dao, arXiv 2307.08691): running maximum and sum in float32, base 2.
Blocks that all rows see in full come first and take no mask. Split tiles leave partial results with
their log-sum-exp, which a second kernel merges (Flash-Decoding).
"""

from __future__ import annotations

import triton
import triton.language as tl

from icm_fast.kernels.tree_attention.work_list import BLOCK_FIELDS, ITEM_FIELDS, MERGE_FIELDS
from icm_fast.kernels.triton_numbers import LOG2E, dot, soft_cap

_BLOCK_FIELDS = tl.constexpr(BLOCK_FIELDS)
_ITEM_FIELDS = tl.constexpr(ITEM_FIELDS)
_MERGE_FIELDS = tl.constexpr(MERGE_FIELDS)


@triton.jit
def tree_attention_kernel(
    query: tl.tensor,
    key_pool: tl.tensor,
    value_pool: tl.tensor,
    out: tl.tensor,
    partial_out: tl.tensor,  # [n_partials, kv_heads, BLOCK_M, VALUE_DIM] float32
    partial_lse: tl.tensor,  # [n_partials, kv_heads, BLOCK_M] float32, base 2
    sinks: tl.tensor,  # [heads] float32, natural
    items: tl.tensor,
    blocks: tl.tensor,
    scaling: tl.tensor,
    softcap: tl.tensor,
    window: tl.tensor,
    kv_heads: tl.tensor,
    query_head_stride: tl.tensor,
    query_token_stride: tl.tensor,
    key_head_stride: tl.tensor,
    key_slot_stride: tl.tensor,
    value_head_stride: tl.tensor,
    value_slot_stride: tl.tensor,
    out_head_stride: tl.tensor,
    out_token_stride: tl.tensor,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    INTERPRET: tl.constexpr,
) -> None:
    """Attention of one item under one key-value head; programs: items x key-value heads."""
    kv_head = tl.program_id(0) % kv_heads
    item = items + tl.program_id(0) // kv_heads * _ITEM_FIELDS
    segment_begin = tl.load(item)
    rows = tl.load(item + 1) + tl.arange(0, BLOCK_M)
    in_segment = rows < tl.load(item + 2)
    token = rows // GROUP
    position = tl.load(item + 3) + token
    low, whole_end, high = tl.load(item + 4), tl.load(item + 5), tl.load(item + 6)
    partial = tl.load(item + 7)

    head = kv_head * GROUP + rows % GROUP
    row = (segment_begin + token).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)
    q = tl.load(
        query
        + head.to(tl.int64)[:, None] * query_head_stride
        + row[:, None] * query_token_stride
        + columns[None, :],
        mask=in_segment[:, None] & (columns < HEAD_DIM)[None, :],
        other=0.0,
    )
    keys = key_pool + kv_head.to(tl.int64) * key_head_stride
    values = value_pool + kv_head.to(tl.int64) * value_head_stride

    total = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    if HAS_SINKS:
        # A sink is one more key without a value; a split tile gets it when it is merged.
        sink = tl.load(sinks + head, mask=in_segment, other=0.0) * LOG2E
        maximum = tl.where(partial < 0, sink, float("-inf"))
        weight = tl.where(maximum > float("-inf"), 1.0, 0.0)
    else:
        maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)
        weight = tl.zeros([BLOCK_M], tl.float32)
    maximum, weight, total = _attend(
        q, maximum, weight, total, keys, values, blocks, low, whole_end, position,
        scaling, softcap, window, key_slot_stride, value_slot_stride,
        HEAD_DIM, VALUE_DIM, BLOCK_N, BLOCK_D, BLOCK_V, False, HAS_WINDOW, HAS_SOFTCAP, INTERPRET,
    )  # fmt: skip
    maximum, weight, total = _attend(
        q, maximum, weight, total, keys, values, blocks, whole_end, high, position,
        scaling, softcap, window, key_slot_stride, value_slot_stride,
        HEAD_DIM, VALUE_DIM, BLOCK_N, BLOCK_D, BLOCK_V, True, HAS_WINDOW, HAS_SOFTCAP, INTERPRET,
    )  # fmt: skip

    # In a part of a split tile a row may see no key at all: its weight is 0.
    total = total / tl.where(weight > 0, weight, 1.0)[:, None]
    lanes = tl.arange(0, BLOCK_V)
    stored = in_segment[:, None] & (lanes < VALUE_DIM)[None, :]
    if partial >= 0:
        part = (partial * kv_heads + kv_head).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
        tl.store(partial_lse + part, maximum + tl.log2(weight), mask=in_segment)
        tl.store(partial_out + part[:, None] * VALUE_DIM + lanes[None, :], total, mask=stored)
        return
    target = out + head.to(tl.int64)[:, None] * out_head_stride + row[:, None] * out_token_stride
    tl.store(target + lanes[None, :], total.to(out.dtype.element_ty), mask=stored)


@triton.jit
def _attend(
    q: tl.tensor,  # [BLOCK_M, BLOCK_D]
    maximum: tl.tensor,  # [BLOCK_M] float32, of the scores so far, base 2
    weight: tl.tensor,  # [BLOCK_M] float32, sum of exp2(score - maximum)
    total: tl.tensor,  # [BLOCK_M, BLOCK_V] float32, sum of weighted values
    keys: tl.tensor,
    values: tl.tensor,
    blocks: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    position: tl.tensor,  # [BLOCK_M] of the queries
    scaling: tl.tensor,
    softcap: tl.tensor,
    window: tl.tensor,
    key_slot_stride: tl.tensor,
    value_slot_stride: tl.tensor,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    MASKED: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    INTERPRET: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Take blocks ``low`` to ``high`` into the running softmax."""
    lane = tl.arange(0, BLOCK_N)
    key_lanes, value_lanes = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
    for index in range(low, high):
        block = blocks + index * _BLOCK_FIELDS
        # Beyond 2^31 numbers a pool needs 64 bits, but only once per block.
        slot = tl.load(block).to(tl.int64)
        key = keys + slot * key_slot_stride + lane[:, None] * key_slot_stride + key_lanes[None, :]
        value = (
            values
            + slot * value_slot_stride
            + lane[:, None] * value_slot_stride
            + value_lanes[None, :]
        )
        if MASKED:
            filled = lane < tl.load(block + 1)
            k = tl.load(key, mask=filled[:, None] & (key_lanes < HEAD_DIM)[None, :], other=0.0)
            v = tl.load(value, mask=filled[:, None] & (value_lanes < VALUE_DIM)[None, :], other=0.0)
        else:
            k = _load_rows(key, key_lanes, HEAD_DIM, BLOCK_D)
            v = _load_rows(value, value_lanes, VALUE_DIM, BLOCK_V)
        empty = tl.zeros([q.shape[0], BLOCK_N], tl.float32)
        score = dot(q, tl.trans(k), empty, "ieee", INTERPRET)
        if HAS_SOFTCAP:
            score = soft_cap(score * scaling, softcap) * LOG2E
        else:
            score = score * (scaling * LOG2E)
        if MASKED:
            at = tl.load(block + 2) + lane
            seen = filled[None, :] & (at[None, :] <= position[:, None])
            if HAS_WINDOW:
                seen = seen & (at[None, :] > position[:, None] - window)
            score = tl.where(seen, score, float("-inf"))
        highest = tl.maximum(maximum, tl.max(score, 1))
        # Where a row has seen nothing yet, -inf minus -inf must not become NaN.
        origin = tl.where(highest > float("-inf"), highest, 0.0)
        probability = tl.exp2(score - origin[:, None])
        fade = tl.exp2(maximum - origin)
        weight = weight * fade + tl.sum(probability, 1)
        total = dot(probability.to(v.dtype), v, total * fade[:, None], "ieee", INTERPRET)
        maximum = highest
    return maximum, weight, total


@triton.jit
def _load_rows(
    pointers: tl.tensor, lanes: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr
) -> tl.tensor:
    """Rows without a mask where they need no padding."""
    if WIDTH == BLOCK:
        return tl.load(pointers)
    return tl.load(pointers, mask=(lanes < WIDTH)[None, :], other=0.0)


@triton.jit
def merge_kernel(
    out: tl.tensor,
    partial_out: tl.tensor,  # [n_partials, kv_heads, BLOCK_M, VALUE_DIM] float32
    partial_lse: tl.tensor,  # [n_partials, kv_heads, BLOCK_M] float32, base 2
    sinks: tl.tensor,  # [heads] float32, natural
    merges: tl.tensor,
    kv_heads: tl.tensor,
    out_head_stride: tl.tensor,
    out_token_stride: tl.tensor,
    GROUP: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_V: tl.constexpr,
    HAS_SINKS: tl.constexpr,
) -> None:
    """Weigh the parts of a split tile by their log-sum-exp; programs: (tiles x heads, rows)."""
    kv_head = tl.program_id(0) % kv_heads
    merge = merges + tl.program_id(0) // kv_heads * _MERGE_FIELDS
    in_tile = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    rows = tl.load(merge + 1) + in_tile
    in_segment = rows < tl.load(merge + 2)
    head = kv_head * GROUP + rows % GROUP
    row = (tl.load(merge) + rows // GROUP).to(tl.int64)
    first, n_parts = tl.load(merge + 4), tl.load(merge + 5)
    lanes = tl.arange(0, BLOCK_V)
    stored = in_segment[:, None] & (lanes < VALUE_DIM)[None, :]

    total = tl.zeros([ROWS, BLOCK_V], tl.float32)
    if HAS_SINKS:
        maximum = tl.load(sinks + head, mask=in_segment, other=0.0) * LOG2E
        weight = tl.where(maximum > float("-inf"), 1.0, 0.0)
    else:
        maximum = tl.full([ROWS], float("-inf"), tl.float32)
        weight = tl.zeros([ROWS], tl.float32)
    for part in range(first, first + n_parts):
        at = (part * kv_heads + kv_head).to(tl.int64) * BLOCK_M + in_tile
        lse = tl.load(partial_lse + at, mask=in_segment, other=float("-inf"))
        partial = tl.load(
            partial_out + at[:, None] * VALUE_DIM + lanes[None, :], mask=stored, other=0.0
        )
        highest = tl.maximum(maximum, lse)
        origin = tl.where(highest > float("-inf"), highest, 0.0)
        fade, share = tl.exp2(maximum - origin), tl.exp2(lse - origin)
        total = total * fade[:, None] + partial * share[:, None]
        weight = weight * fade + share
        maximum = highest
    # Every query sees at least itself; rows beyond the segment are not stored.
    total = total / tl.where(weight > 0, weight, 1.0)[:, None]
    target = out + head.to(tl.int64)[:, None] * out_head_stride + row[:, None] * out_token_stride
    tl.store(target + lanes[None, :], total.to(out.dtype.element_ty), mask=stored)
