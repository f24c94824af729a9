"""A residual sum and the root-mean-square norm of it, in one pass."""

from typing import Protocol

import torch

from icm_fast.kernels.add_rms_norm import naive
from icm_fast.kernels.triton_devices import DTYPES, has_triton_kernels

__all__ = ["AddRmsNorm", "add_rms_norm_on"]


class AddRmsNorm(Protocol):
    """Signature of every version; see ``naive.add_rms_norm``."""

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


def add_rms_norm_on(device: torch.device, dtype: torch.dtype) -> AddRmsNorm:
    """The Triton kernel on devices that have it, else torch's operators."""
    if dtype not in DTYPES or not has_triton_kernels(device):
        return naive.add_rms_norm
    from icm_fast.kernels.add_rms_norm import triton

    return triton.add_rms_norm
