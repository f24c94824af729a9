"""A residual sum and its root-mean-square norm, in one pass."""

from typing import Protocol

import torch

from icm_fast.kernels.add_rms_norm import naive
from icm_fast.kernels.triton_devices import DTYPES, has_triton_kernels

__all__ = ["AddRmsNorm", "select_add_rms_norm"]


class AddRmsNorm(Protocol):
    """Signature of every implementation; see ``naive.add_rms_norm``."""

    def __call__(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        weight: torch.Tensor,
        eps: float,
        *,
        plus_one: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add, then norm each row."""


def select_add_rms_norm(device: torch.device, dtype: torch.dtype) -> AddRmsNorm:
    """The Triton kernel on devices that support it, otherwise torch's operators."""
    if dtype not in DTYPES or not has_triton_kernels(device):
        return naive.add_rms_norm
    from icm_fast.kernels.add_rms_norm import triton

    return triton.add_rms_norm
