"""Which devices and dtypes the Triton kernels support."""

from __future__ import annotations

import os
import re
import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

OLDEST_TRITON = (3, 6)
"""For devices; torch 2.11 brings it. The kernels were not compiled with earlier versions."""
OLDEST_INTERPRETER = (3, 7)
"""For Triton's interpreter."""

OLDEST_CAPABILITY = (8, 0)

NEEDS_TRITON = (
    f"Triton kernels need triton {'.'.join(map(str, OLDEST_TRITON))} and an NVIDIA GPU of compute "
    f"capability {'.'.join(map(str, OLDEST_CAPABILITY))} or later"
)
"""Said where a device has none."""

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in {"1", "true", "yes", "on", "y"}
"""Whether kernels run in Triton's interpreter (TRITON_INTERPRET=1 when triton was imported)."""

DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})


@cache
def has_triton_kernels(device: torch.device) -> bool:
    """Whether the kernels support a device; AMD devices are called cuda too and are not."""
    if device.type != "cuda" or not torch.cuda.is_available() or torch.version.cuda is None:
        return False
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return False
    if (found := _triton_version()) < OLDEST_TRITON:
        wanted, there = (".".join(map(str, v)) or "none" for v in (OLDEST_TRITON, found))
        warnings.warn(
            f"Triton kernels are not used on {device}: they need triton {wanted}, found {there}; "
            "torch's own operators are used, which are slower. Update torch, which installs triton",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def is_interpreted(device: torch.device) -> bool:
    """Whether Triton's interpreter runs there: correct results, meaningless times."""
    return INTERPRETED and device.type == "cpu" and _triton_version() >= OLDEST_INTERPRETER


def _triton_version() -> tuple[int, ...]:
    """Major and minor number; empty if it is not installed."""
    try:
        return tuple(int(number) for number in re.findall(r"\d+", version("triton"))[:2])
    except PackageNotFoundError:
        return ()
