"""Which versions of tree attention there are, and which one to take."""

from __future__ import annotations

import torch

from icm_fast.kernels.tree_attention import choice, cuda, sdpa
from icm_fast.kernels.tree_attention.choice import TreeAttention
from icm_fast.kernels.triton_devices import DTYPES, has_triton_kernels


def available(device: torch.device | str) -> tuple[str, ...]:
    """Names of the versions that run on a device, the preferred one first."""
    device = torch.device(device)
    built = device.type == "cuda" and cuda.library_path().is_file()
    compiles = has_triton_kernels(device)
    return ("cuda",) * built + ("triton",) * compiles + ("sdpa", "naive")


def fastest(query: torch.Tensor, value_pool: torch.Tensor) -> TreeAttention:
    """The preferred version that takes these tensors; all have the signature of ``naive``."""
    if cuda.serves(query, value_pool):
        return cuda.tree_attention
    if query.dtype not in DTYPES:
        return sdpa.tree_attention
    return choice.tree_attention_on(query.device, max(query.shape[-1], value_pool.shape[-1]))
