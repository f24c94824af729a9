"""The activation of one projection times another, in one pass."""

from typing import Protocol

import torch

from icm_fast.kernels.gated_activation import naive
from icm_fast.kernels.triton_devices import DTYPES, has_triton_kernels

__all__ = ["GatedActivation", "select_gated_activation"]


class GatedActivation(Protocol):
    """Signature of every implementation; see ``naive.gated_activation``."""

    def __call__(self, gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
        """Activate one projection and multiply it by the other."""


def select_gated_activation(device: torch.device, dtype: torch.dtype) -> GatedActivation:
    """The Triton kernel on devices that support it, otherwise torch's operators."""
    if dtype not in DTYPES or not has_triton_kernels(device):
        return naive.gated_activation
    from icm_fast.kernels.gated_activation import triton

    return triton.gated_activation
