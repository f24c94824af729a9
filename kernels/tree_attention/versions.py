"""Which versions of tree attention there are, and which one to take."""

from __future__ import annotations

from collections.abc import Callable

import torch

from icm_fast.kernels.tree_attention import cuda, sdpa

TreeAttention = Callable[..., torch.Tensor]


def available(device: torch.device | str) -> tuple[str, ...]:
    """Names of the versions that run on a device, the preferred one first."""
    on_gpu = torch.device(device).type == "cuda" and cuda.library_path().is_file()
    return ("cuda", "sdpa", "naive") if on_gpu else ("sdpa", "naive")


def fastest(query: torch.Tensor, value_pool: torch.Tensor) -> TreeAttention:
    """The preferred version that takes these tensors; all have the signature of ``naive``."""
    return cuda.tree_attention if cuda.serves(query, value_pool) else sdpa.tree_attention
