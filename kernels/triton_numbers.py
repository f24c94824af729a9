"""Device functions that several Triton kernels share, and what the interpreter needs of them."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
"""exp(x) = exp2(LOG2E * x): the hardware has exp2 only."""


@triton.jit
def dot(
    a: tl.tensor,  # [M, K]
    b: tl.tensor,  # [K, N]
    total: tl.tensor,  # [M, N] float32
    PRECISION: tl.constexpr,
    INTERPRET: tl.constexpr,
) -> tl.tensor:
    """``total + a @ b`` with sums in float32."""
    if INTERPRET:
        # The interpreter multiplies the bits of bfloat16 as integers; as float32 the products are
        # exact, as they are in tensor cores.
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def soft_cap(score: tl.tensor, cap: tl.tensor) -> tl.tensor:
    """``cap * tanh(score / cap)``; its absolute error is about ``cap * 2e-7``."""
    # From exp2 of a negative number, so that nothing overflows.
    decay = tl.exp2(tl.abs(score) * (-2.0 * LOG2E / cap))
    bounded = cap * (1.0 - decay) / (1.0 + decay)
    return tl.where(score < 0, -bounded, bounded)
