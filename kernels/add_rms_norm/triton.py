"""Residual sum and root-mean-square norm in Triton: every number is read once and written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 2048
"""Numbers of a program, as long as a row is shorter: narrow rows share one."""

NUMBERS_PER_THREAD = 16
MOST_WARPS = 16


def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    *,
    plus_one: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same contract as :func:`icm_fast.kernels.add_rms_norm.naive.add_rms_norm`.

    Rows may have any stride but must be contiguous themselves. The results are contiguous,
    except if ``x`` itself is returned.

    Raises:
        ValueError: If shapes or dtypes do not match, or a row is not contiguous.
    """
    _check(x, residual, weight)
    normed = x.new_empty(x.shape)
    total = x if residual is None else x.new_empty(x.shape)
    if x.numel():
        with torch.cuda.device_of(x):  # Triton launches on the current device
            _launch(x, residual, weight, eps, normed, total, plus_one)
    return normed, total


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    normed: torch.Tensor,
    total: torch.Tensor,
    plus_one: bool,
) -> None:
    n_rows, width = x.shape
    rows, block, num_warps = tile(width)
    add_rms_norm_kernel[(triton.cdiv(n_rows, rows),)](
        x,
        x if residual is None else residual,
        weight.contiguous(),
        normed,
        total,
        eps,
        n_rows,
        x.stride(0),
        x.stride(0) if residual is None else residual.stride(0),
        WIDTH=width,
        ROWS=rows,
        BLOCK=block,
        HAS_RESIDUAL=residual is not None,
        PLUS_ONE=plus_one,
        num_warps=num_warps,
        enable_fp_fusion=True,
    )


def tile(width: int) -> tuple[int, int, int]:
    """Rows of a program, their padded width, and its warps."""
    block: int = triton.next_power_of_2(width)
    rows = max(1, BLOCK // block)
    warps = rows * block // (32 * NUMBERS_PER_THREAD)
    return rows, block, min(MOST_WARPS, max(1, warps))


def _check(x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor) -> None:
    given = [x, weight] if residual is None else [x, weight, residual]
    if x.dim() != 2 or weight.shape != x.shape[1:]:
        raise ValueError(f"rows of shape {tuple(x.shape)} for a weight of {tuple(weight.shape)}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"rows of shape {tuple(x.shape)}, residual {tuple(residual.shape)}")
    if len({t.dtype for t in given}) > 1:
        raise ValueError("dtypes of rows, residual and weight differ")
    if x.shape[1] > 1 and any(t.stride(-1) != 1 for t in given):
        raise ValueError("rows, those of the residual and the weight must be contiguous")


@triton.jit
def add_rms_norm_kernel(
    x: tl.tensor,  # [n_rows, WIDTH]
    residual: tl.tensor,
    weight: tl.tensor,  # [WIDTH]
    normed: tl.tensor,  # [n_rows, WIDTH], contiguous
    total: tl.tensor,  # [n_rows, WIDTH], contiguous: written where there is a residual
    eps: tl.tensor,
    n_rows: tl.tensor,
    x_row_stride: tl.tensor,
    residual_row_stride: tl.tensor,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    PLUS_ONE: tl.constexpr,
) -> None:
    """Some whole rows; programs: row tiles."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lanes = tl.arange(0, BLOCK)
    inside = lanes < WIDTH
    there = (row < n_rows)[:, None] & inside[None, :]
    row = row.to(tl.int64)[:, None]
    place = row * WIDTH + lanes[None, :]
    dtype = normed.dtype.element_ty
    state = tl.load(x + row * x_row_stride + lanes[None, :], mask=there, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        source = residual + row * residual_row_stride + lanes[None, :]
        state += tl.load(source, mask=there, other=0.0).to(tl.float32)
        # The norm is of what later layers add to, and that is rounded.
        rounded = state.to(dtype)
        tl.store(total + place, rounded, mask=there)
        state = rounded.to(tl.float32)
    mean_square = tl.sum(state * state, 1) / WIDTH
    state = state * tl.rsqrt(mean_square + eps)[:, None]
    factor = tl.load(weight + lanes, mask=inside, other=0.0).to(tl.float32)[None, :]
    if PLUS_ONE:
        factor = 1.0 + factor
    else:
        state = state.to(dtype).to(tl.float32)
    tl.store(normed + place, (state * factor).to(dtype), mask=there)
