"""Which version of tree attention serves a device."""

from __future__ import annotations

from typing import Protocol

import torch
from icm_fast.kernels.tree_attention import sdpa
from icm_fast.kernels.tree_attention.tiles import HEAD_DIMS
from icm_fast.kernels.tree_attention.work import AttentionWork
from icm_fast.kernels.triton_devices import has_triton_kernels


class TreeAttention(Protocol):
    """Signature of every version; see ``naive.tree_attention``."""

    def __call__(
        self,
        query: torch.Tensor,
        key_pool: torch.Tensor,
        value_pool: torch.Tensor,
        work: AttentionWork,
        *,
        scaling: float,
        sliding_window: int | None = None,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend every segment's queries over its context and itself."""


def tree_attention_on(device: torch.device, width: int) -> TreeAttention:
    """The Triton kernel on an NVIDIA device of compute capability 8.0 or later, else sdpa.

    Args:
        device: Where query, keys and values are.
        width: Of a head, the greater one of query and value.
    """
    if width > HEAD_DIMS[-1] or not has_triton_kernels(device):
        return sdpa.tree_attention
    from icm_fast.kernels.tree_attention import triton

    return triton.tree_attention
