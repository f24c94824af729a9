"""Residual sum and root-mean-square norm, slow and obvious: the definition."""

from __future__ import annotations

import torch


def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    *,
    plus_one: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add, then norm each row; rounded where transformers' layers round.

    Args:
        x: ``[n_rows, width]``.
        residual: ``[n_rows, width]``, or None where there is nothing to add.
        weight: ``[width]``; all three of one dtype.
        eps: Added to the mean square.
        plus_one: Gemma's norm, which multiplies by ``1 + weight`` in float32 and rounds once; any
            other one is rounded before it is multiplied by the weight, and again after it.

    Returns:
        The normed rows and ``x + residual`` (``x`` itself without a residual), both
        ``[n_rows, width]`` in the dtype of ``x``; mean squares in float32, of the rounded sum.
    """
    total = x if residual is None else x + residual
    states = total.float()
    states = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + eps)
    if plus_one:
        return (states * (1.0 + weight.float())).to(x.dtype), total
    return weight * states.to(x.dtype), total
