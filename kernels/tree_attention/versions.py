"""All implementations of tree attention by name: ours, and those that call other libraries.

A library takes part where it is installed and takes the heads, once it has passed the trial of our
own kernels; see :mod:`.measured` for when it serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version

import torch

from icm_fast.kernels.tree_attention import cuda, naive, sdpa, varlen
from icm_fast.kernels.tree_attention.tuned_tiles import HeadShape
from icm_fast.kernels.tree_attention.work import TreeAttention
from icm_fast.kernels.triton_devices import OLDEST_CAPABILITY

LIBRARY_DTYPES = (torch.bfloat16, torch.float16)
"""Those that the trial covers."""

WIDEST_HEAD = 256
"""Of FlashAttention; a width is a multiple of 8."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What an attention is asked for.

    Attributes:
        shape: Sizes and dtype of the heads.
        device: Where the tensors are.
        softcap: Whether scores are soft-capped.
        sinks: Whether there are sinks.
    """

    shape: HeadShape
    device: torch.device
    softcap: bool = False
    sinks: bool = False

    @classmethod
    def of(
        cls,
        query: torch.Tensor,
        value_pool: torch.Tensor,
        *,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> Needs:
        """Those of a call; see ``naive.tree_attention``."""
        group = query.shape[0] // value_pool.shape[0]
        shape = HeadShape(group, query.shape[-1], value_pool.shape[-1], query.dtype)
        return cls(shape, query.device, bool(softcap), sinks is not None)


@dataclass(frozen=True, slots=True)
class Version:
    """One implementation.

    Attributes:
        name: Its name.
        load: Imports what it needs and returns it.
        package: The distribution that computes; that of ours for ours.
        unserved_because: Why a library does not serve some heads and options here; empty where it
            does. Which of ours serves is decided in ``select``.
        splits: Whether it takes ``keys_per_split``.
    """

    name: str
    load: Callable[[], TreeAttention]
    package: str = "icm-fast"
    unserved_because: Callable[[Needs], str] = lambda needs: ""
    splits: bool = False

    @property
    def is_library(self) -> bool:
        """Whether others wrote what computes."""
        return self.package != "icm-fast"


@cache
def installed(package: str) -> str:
    """The version of a distribution; empty if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _triton() -> TreeAttention:
    from icm_fast.kernels.tree_attention import triton

    return triton.tree_attention


def _flex() -> TreeAttention:
    from icm_fast.kernels.tree_attention import flex

    return flex.tree_attention


@cache
def _varlen(library: varlen.VarlenLibrary) -> TreeAttention:
    return partial(varlen.tree_attention, library=library)


def _nowhere(package: str, needs: Needs) -> str:
    """Why no library serves; empty where one may."""
    if needs.device.type != "cuda" or torch.version.cuda is None:
        return "libraries are used on NVIDIA GPUs only"
    if torch.cuda.get_device_capability(needs.device) < OLDEST_CAPABILITY:
        return "it needs a GPU of compute capability 8.0 or later"
    if needs.shape.dtype not in LIBRARY_DTYPES:
        return f"it takes bfloat16 or float16, not {needs.shape.dtype}".replace("torch.", "")
    return "" if installed(package) else f"{package} is not installed"


def _flex_unserved(needs: Needs) -> str:
    if reason := _nowhere("torch", needs):
        return reason
    return "" if installed("triton") else "triton is not installed"


def _flash_unserved(
    package: str, *, softcap: bool, sinks: bool, equal_widths: bool, needs: Needs
) -> str:
    """Why a FlashAttention with or without some options does not serve."""
    if reason := _nowhere(package, needs):
        return reason
    widths = (needs.shape.head_dim, needs.shape.value_dim)
    if any(width % 8 or width > WIDEST_HEAD for width in widths):
        return f"it takes heads of 8, 16, ... {WIDEST_HEAD} numbers, not {max(widths)}"
    if equal_widths and widths[0] != widths[1]:
        return "it takes values as wide as keys only"
    if needs.softcap and not softcap:
        return "it has no soft-capped scores"
    return "it has no sinks" if needs.sinks and not sinks else ""


VERSIONS: dict[str, Version] = {
    one.name: one
    for one in (
        Version("cuda_wgmma", lambda: cuda.wgmma_tree_attention, splits=True),
        Version("cuda", lambda: cuda.tree_attention, splits=True),
        Version("triton", _triton),
        Version("flex", _flex, "torch", _flex_unserved),
        Version(
            "flash_attn_4",
            lambda: _varlen(varlen.flash_attn_4),
            "flash-attn-4",
            lambda needs: _flash_unserved(
                "flash-attn-4", softcap=True, sinks=True, equal_widths=False, needs=needs
            ),
        ),
        Version(
            "flash_attn",
            lambda: _varlen(varlen.flash_attn),
            "flash-attn",
            lambda needs: _flash_unserved(
                "flash-attn", softcap=True, sinks=False, equal_widths=True, needs=needs
            ),
        ),
        Version(
            "torch_flash",
            lambda: _varlen(varlen.torch_flash),
            "torch",
            lambda needs: _flash_unserved(
                "torch", softcap=False, sinks=False, equal_widths=True, needs=needs
            ),
        ),
        Version("sdpa", lambda: sdpa.tree_attention),
        Version("naive", lambda: naive.tree_attention),
    )
}
"""By name; of ours, the fastest first."""

LIBRARIES = tuple(one for one in VERSIONS.values() if one.is_library)


def name_of(attend: TreeAttention) -> str:
    """The name of a loaded implementation."""
    known = (one for one in VERSIONS.values() if one.name != "triton")
    # Triton is imported by its own version only, so it is what no other one is.
    return next((one.name for one in known if one.load() is attend), "triton")
