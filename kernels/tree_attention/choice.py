"""Which version of tree attention serves a device."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

import torch

from icm_fast.kernels.tree_attention import sdpa
from icm_fast.kernels.tree_attention.tiles import HEAD_DIMS
from icm_fast.kernels.tree_attention.work import AttentionWork

OLDEST_TRITON = (3, 7)
"""Earlier ones may do, but no kernel was ever compiled with them."""

OLDEST_CAPABILITY = (8, 0)

DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
"""What the Triton kernels have tiles for."""


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
    if device.type != "cuda" or width > HEAD_DIMS[-1] or not has_triton_kernels(device):
        return sdpa.tree_attention
    from icm_fast.kernels.tree_attention import triton

    return triton.tree_attention


@cache
def has_triton_kernels(device: torch.device) -> bool:
    """Whether the kernels are for such a CUDA device; AMD's call themselves cuda too."""
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return False
    if _triton_version() < OLDEST_TRITON:
        return False
    return bool(torch.cuda.get_device_capability(device) >= OLDEST_CAPABILITY)


def _triton_version() -> tuple[int, ...]:
    """Major and minor number, nothing where it is not installed."""
    try:
        return tuple(int(number) for number in re.findall(r"\d+", version("triton"))[:2])
    except PackageNotFoundError:
        return ()
