"""The activation of one projection times another one, in one pass."""

from typing import Protocol

import torch

from icm_fast.kernels.gated_activation import naive
from icm_fast.kernels.triton_devices import DTYPES, has_triton_kernels

__all__ = ["GatedActivation", "gated_activation_on"]


class GatedActivation(Protocol):
    """Signature of every version; see ``naive.gated_activation``."""

    def __call__(self, gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
        """Activate one projection and multiply it by the other one."""


def gated_activation_on(device: torch.device, dtype: torch.dtype) -> GatedActivation:
    """The Triton kernel on devices that have it, else torch's operators."""
    if dtype not in DTYPES or not has_triton_kernels(device):
        return naive.gated_activation
    from icm_fast.kernels.gated_activation import triton

    return triton.gated_activation
