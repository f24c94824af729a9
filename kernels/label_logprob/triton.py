"""Label log-probabilities in Triton.

One kernel norms a row and multiplies it with the labels' rows of the head. A second one walks the
vocabulary in blocks and keeps a running log-sum-exp per row, so that logits exist only in
registers. Both treat each row independently: its bits do not depend on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from icm_fast.kernels.label_logprob.head import Head
from icm_fast.kernels.triton_devices import INTERPRETED
from icm_fast.kernels.triton_numbers import LOG2E, dot, soft_cap

LN2 = tl.constexpr(0.6931471805599453)


@dataclass(frozen=True, slots=True)
class Tile:
    """Sizes of the walk over the vocabulary.

    Attributes:
        block_m: Hidden states of a program.
        block_n: Vocabulary entries of a step.
        block_k: Hidden features of a step.
        num_warps: Warps of a program.
        num_stages: Depth of the pipeline.
    """

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


SLOW = Tile(32, 32, 32, 4, 3)
"""For float32 products, which tensor cores do not support: registers hold the factors."""

# By the number of pieces (see `pieces`) and the bytes of a weight: one tile for all widths, since
# the walk over features is a loop. See the tables in benchmarks/gpu; not tuned on a device.
TILES = {(1, 2): Tile(64, 64, 64, 4, 3), (3, 2): Tile(64, 64, 32, 4, 3)}

PARTS = 128
"""Programs that share the vocabulary, per tile of rows; fixed instead of depending on the device,
so that sums are the same everywhere."""

ROW_WARPS = 4


def label_logprob(
    hidden: torch.Tensor,
    head: Head,
    tokens: torch.Tensor,
    *,
    normalize: bool,
    tile: Tile | None = None,
    parts: int = PARTS,
) -> torch.Tensor:
    """Same contract as :func:`icm_fast.kernels.label_logprob.naive.label_logprob`.

    Args:
        hidden: ``[rows, hidden_size]``, any of float32, bfloat16 and float16.
        head: The head; its weight in any of these dtypes.
        tokens: ``[n_tokens]`` int64 ids, each below the vocabulary's size.
        normalize: Subtract the log-sum-exp over the vocabulary.
        tile: Sizes of the walk over the vocabulary.
        parts: Number of programs that share the vocabulary.

    Returns:
        ``[rows, n_tokens]`` float32, natural log.

    Raises:
        ValueError: If hidden states and head differ in width.
    """
    if hidden.shape[1] != head.weight.shape[1]:
        raise ValueError(f"hidden states of {hidden.shape[1]} for a head of {head.weight.shape[1]}")
    hidden, weight = hidden.contiguous(), head.weight.contiguous()
    logits = hidden.new_empty(len(hidden), len(tokens), dtype=torch.float32)
    # Normed states stay float32 between the two kernels.
    states = hidden if head.norm_weight is None else torch.empty_like(hidden, dtype=torch.float32)
    if not len(hidden):
        return logits
    with torch.cuda.device_of(hidden):  # Triton launches on the current device
        _launch_label_rows(hidden, states, weight, head, tokens, logits)
        if normalize:
            logits -= _log_normalizer(states, weight, head, tile, parts)[:, None]
    return logits


def _launch_label_rows(
    hidden: torch.Tensor,
    states: torch.Tensor,
    weight: torch.Tensor,
    head: Head,
    tokens: torch.Tensor,
    logits: torch.Tensor,
) -> None:
    width = hidden.shape[1]
    label_rows_kernel[(len(hidden),)](
        hidden,
        states,
        weight,
        weight if head.bias is None else head.bias,
        weight if head.norm_weight is None else head.norm_weight,
        tokens,
        logits,
        head.norm_eps,
        head.scale,
        head.softcap or 0.0,
        len(tokens),
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        HAS_NORM=head.norm_weight is not None,
        HAS_BIAS=head.bias is not None,
        HAS_SOFTCAP=bool(head.softcap),
        num_warps=ROW_WARPS,
        enable_fp_fusion=True,
    )


def _log_normalizer(
    states: torch.Tensor, weight: torch.Tensor, head: Head, tile: Tile | None, parts: int
) -> torch.Tensor:
    """Log-sum-exp over the vocabulary, ``[rows]`` float32."""
    tile = tile or default_tile(states.dtype, weight.dtype)
    (n_rows, width), vocabulary = states.shape, weight.shape[0]
    parts = min(parts, triton.cdiv(vocabulary, tile.block_n))
    partial = states.new_empty(parts, n_rows, dtype=torch.float32)
    vocabulary_kernel[(triton.cdiv(n_rows, tile.block_m), parts)](
        states,
        weight,
        weight if head.bias is None else head.bias,
        partial,
        head.scale,
        head.softcap or 0.0,
        n_rows,
        vocabulary,
        parts,
        WIDTH=width,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        BLOCK_K=tile.block_k,
        PIECES=pieces(states.dtype, weight.dtype),
        HAS_BIAS=head.bias is not None,
        HAS_SOFTCAP=bool(head.softcap),
        INTERPRET=INTERPRETED,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        enable_fp_fusion=True,
    )
    return partial.logsumexp(0)


def pieces(states: torch.dtype, weight: torch.dtype) -> int:
    """How hidden states meet the weights in a product.

    Returns:
        1 for equal types, which multiply as they are. 3 for float32 states and bfloat16 weights:
        three bfloat16 numbers hold the 24 bits of a float32, so three fast products are as exact as
        one slow one. 0 for anything else: both become float32.
    """
    if states == weight:
        return 1
    return 3 if (states, weight) == (torch.float32, torch.bfloat16) else 0


def default_tile(states: torch.dtype, weight: torch.dtype) -> Tile:
    """Tile of the walk over the vocabulary."""
    return TILES.get((pieces(states, weight), weight.itemsize), SLOW)


@triton.jit
def label_rows_kernel(
    hidden: tl.tensor,  # [rows, WIDTH]
    states: tl.tensor,  # [rows, WIDTH] float32: written where there is a norm
    weight: tl.tensor,  # [vocabulary, WIDTH]
    bias: tl.tensor,  # [vocabulary]
    norm_weight: tl.tensor,  # [WIDTH]
    tokens: tl.tensor,  # [n_tokens] int64
    logits: tl.tensor,  # [rows, n_tokens] float32
    norm_eps: tl.tensor,
    scale: tl.tensor,
    softcap: tl.tensor,
    n_tokens: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
) -> None:
    """Norm one row, then its products with the labels' rows of the head; programs: rows."""
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    inside = lanes < WIDTH
    state = tl.load(hidden + row * WIDTH + lanes, mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        factor = tl.load(norm_weight + lanes, mask=inside, other=0.0).to(tl.float32)
        mean_square = tl.sum(state * state, 0) / WIDTH
        state = state * (1.0 / tl.sqrt(mean_square + norm_eps)) * factor
        tl.store(states + row * WIDTH + lanes, state, mask=inside)
    for index in range(n_tokens):
        token = tl.load(tokens + index)
        column = tl.load(weight + token * WIDTH + lanes, mask=inside, other=0.0).to(tl.float32)
        logit = tl.sum(state * column, 0)
        if HAS_BIAS:
            logit += tl.load(bias + token).to(tl.float32)
        logit = logit * scale
        if HAS_SOFTCAP:
            logit = soft_cap(logit, softcap)
        tl.store(logits + row * n_tokens + index, logit)


@triton.jit
def vocabulary_kernel(
    states: tl.tensor,  # [rows, WIDTH]
    weight: tl.tensor,  # [vocabulary, WIDTH]
    bias: tl.tensor,  # [vocabulary]
    partial: tl.tensor,  # [parts, rows] float32, natural log
    scale: tl.tensor,
    softcap: tl.tensor,
    n_rows: tl.tensor,
    vocabulary: tl.tensor,
    parts: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PIECES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    INTERPRET: tl.constexpr,
) -> None:
    """Log-sum-exp of every ``parts``-th block of the vocabulary; programs: (row tiles, parts)."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = rows < n_rows
    state = states + rows.to(tl.int64)[:, None] * WIDTH
    maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)
    weighted = tl.zeros([BLOCK_M], tl.float32)
    for first in range(tl.program_id(1) * BLOCK_N, vocabulary, parts * BLOCK_N):
        entries = first + tl.arange(0, BLOCK_N)
        known = entries < vocabulary
        column = weight + entries.to(tl.int64)[:, None] * WIDTH
        logit = _products(
            state, column, inside, known, WIDTH, BLOCK_M, BLOCK_N, BLOCK_K, PIECES, INTERPRET
        )
        if HAS_BIAS:
            logit += tl.load(bias + entries, mask=known, other=0.0).to(tl.float32)[None, :]
        logit = logit * scale
        if HAS_SOFTCAP:
            logit = soft_cap(logit, softcap)
        logit = tl.where(known[None, :], logit * LOG2E, float("-inf"))
        # The first block has at least one entry, so that the maximum is finite from there on.
        highest = tl.maximum(maximum, tl.max(logit, 1))
        exponential = tl.exp2(logit - highest[:, None])
        weighted = weighted * tl.exp2(maximum - highest) + tl.sum(exponential, 1)
        maximum = highest
    log_sum = (maximum + tl.log2(weighted)) * LN2
    tl.store(partial + tl.program_id(1) * n_rows + rows, log_sum, mask=inside)


@triton.jit
def _products(
    state: tl.tensor,
    column: tl.tensor,
    inside: tl.tensor,
    known: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PIECES: tl.constexpr,
    INTERPRET: tl.constexpr,
) -> tl.tensor:
    """``states @ weight.T`` of a tile: ``[BLOCK_M, BLOCK_N]`` float32."""
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, WIDTH, BLOCK_K):
        lanes = start + tl.arange(0, BLOCK_K)
        there = (lanes < WIDTH)[None, :]
        a = tl.load(state + lanes[None, :], mask=inside[:, None] & there, other=0.0)
        b = tl.load(column + lanes[None, :], mask=known[:, None] & there, other=0.0)
        b = tl.trans(b)
        if PIECES == 1:
            total = dot(a, b, total, "ieee", INTERPRET)
        elif PIECES == 3:
            high = a.to(tl.bfloat16)
            rest = a - high.to(tl.float32)
            middle = rest.to(tl.bfloat16)
            low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
            # Small terms first: what they add up to is not lost in the large ones.
            total = dot(low, b, total, "ieee", INTERPRET)
            total = dot(middle, b, total, "ieee", INTERPRET)
            total = dot(high, b, total, "ieee", INTERPRET)
        else:
            total = dot(a.to(tl.float32), b.to(tl.float32), total, "ieee", INTERPRET)
    return total
