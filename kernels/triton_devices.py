"""Which devices and which numbers the Triton kernels are for."""

from __future__ import annotations

import os
import re
import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

OLDEST_TRITON = (3, 7)
"""Earlier ones may do, but no kernel was ever compiled with them."""

OLDEST_CAPABILITY = (8, 0)

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in {"1", "true", "yes", "on", "y"}
"""Whether kernels run in Triton's interpreter (TRITON_INTERPRET=1 when triton was imported)."""

DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})


@cache
def has_triton_kernels(device: torch.device) -> bool:
    """Whether the kernels are for such a device; AMD's call themselves cuda too."""
    if device.type != "cuda" or not torch.cuda.is_available() or torch.version.cuda is None:
        return False
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return False
    if (found := _triton_version()) < OLDEST_TRITON:
        wanted, there = (".".join(map(str, v)) or "none" for v in (OLDEST_TRITON, found))
        warnings.warn(
            f"Triton kernels are not taken on {device}: they need triton {wanted} and there is "
            f"{there}; torch's own operators serve, which is slower. Update torch, which brings "
            "triton",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def is_interpreted(device: torch.device) -> bool:
    """Whether Triton's interpreter serves it: right results, times without a meaning."""
    return INTERPRETED and device.type == "cpu" and _triton_version() >= OLDEST_TRITON


def _triton_version() -> tuple[int, ...]:
    """Major and minor number, nothing where it is not installed."""
    try:
        return tuple(int(number) for number in re.findall(r"\d+", version("triton"))[:2])
    except PackageNotFoundError:
        return ()
