"""Gated activation, slow and obvious: the definition."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def gated_activation(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """``activation(gate) * up``; rounded where transformers' layers round.

    Args:
        gate: ``[n_rows, width]``.
        up: ``[n_rows, width]``, of the same dtype.
        activation: ``silu``, or ``gelu_tanh`` (the approximation of GELU by a hyperbolic tangent).

    Returns:
        ``[n_rows, width]`` in the dtype of ``gate``; the activation in float32, rounded before and
        after the product.

    Raises:
        ValueError: For any other activation.
    """
    if activation == "silu":
        return F.silu(gate) * up
    if activation == "gelu_tanh":
        return F.gelu(gate, approximate="tanh") * up
    raise ValueError(f"unknown activation {activation!r}; use silu or gelu_tanh")
