"""Rotary positions of packed queries and keys, and keys and values into their pool slots."""

from typing import Protocol

import torch

from icm_fast.kernels.rope_kv_write import naive
from icm_fast.kernels.triton_devices import DTYPES, has_triton_kernels

__all__ = ["RopeKvWrite", "select_rope_kv_write"]


class RopeKvWrite(Protocol):
    """Signature of every implementation; see ``naive.rope_kv_write``."""

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        key_pool: torch.Tensor,
        value_pool: torch.Tensor,
        slots: torch.Tensor,
    ) -> torch.Tensor:
        """Rotate queries and keys, write keys and values into the pools."""


def select_rope_kv_write(device: torch.device, dtype: torch.dtype) -> RopeKvWrite:
    """The Triton kernel on devices that support it, otherwise torch's operators."""
    if dtype not in DTYPES or not has_triton_kernels(device):
        return naive.rope_kv_write
    from icm_fast.kernels.rope_kv_write import triton

    return triton.rope_kv_write
