"""Gated activation in Triton: two numbers are read and one is written."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from icm_fast.kernels.triton_numbers import LOG2E

BLOCK = 1024
"""Numbers of a program, all of one row."""

NUM_WARPS = 4
ACTIVATIONS = ("silu", "gelu_tanh")

# 2 sqrt(2 / pi), and the factor of the cube in it.
_GELU = tl.constexpr(1.5957691216057308)
_CUBE = tl.constexpr(0.044715)


def gated_activation(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """Same contract as :func:`icm_fast.kernels.gated_activation.naive.gated_activation`.

    Rows may have any stride but must be contiguous themselves; the result is contiguous.

    Raises:
        ValueError: If shapes or dtypes differ, a row is not contiguous, or the activation is
            unknown.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; use silu or gelu_tanh")
    if gate.dim() != 2 or gate.shape != up.shape or gate.dtype != up.dtype:
        raise ValueError(f"gate {tuple(gate.shape)} {gate.dtype}, up {tuple(up.shape)} {up.dtype}")
    n_rows, width = gate.shape
    if width > 1 and not gate.stride(-1) == up.stride(-1) == 1:
        raise ValueError("rows must be contiguous")
    out = gate.new_empty(gate.shape)
    if out.numel():
        with torch.cuda.device_of(gate):  # Triton launches on the current device
            gated_activation_kernel[(n_rows, triton.cdiv(width, BLOCK))](
                gate,
                up,
                out,
                width,
                gate.stride(0),
                up.stride(0),
                IS_GELU=activation == "gelu_tanh",
                BLOCK=BLOCK,
                num_warps=NUM_WARPS,
                enable_fp_fusion=True,
            )
    return out


@triton.jit
def gated_activation_kernel(
    gate: tl.tensor,  # [n_rows, width]
    up: tl.tensor,
    out: tl.tensor,  # [n_rows, width], contiguous
    width: tl.tensor,
    gate_row_stride: tl.tensor,
    up_row_stride: tl.tensor,
    IS_GELU: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Part of a row; programs: (rows, blocks of a row)."""
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = lanes < width
    state = tl.load(gate + row * gate_row_stride + lanes, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(up + row * up_row_stride + lanes, mask=inside, other=0.0).to(tl.float32)
    # Both activations are x times a sigmoid, GELU's since 1 + tanh(u) is 2 sigmoid(2 u).
    steep = (state + state * state * state * _CUBE) * _GELU if IS_GELU else state
    state = state / (1.0 + tl.exp2(steep * -LOG2E))
    dtype = out.dtype.element_ty
    product = state.to(dtype).to(tl.float32) * factor
    tl.store(out + row * width + lanes, product.to(dtype), mask=inside)
