"""Several small tables to a device in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod

import numpy as np
import numpy.typing as npt
import torch

_ALIGNED = 16
"""Bytes at whose multiples kernels expect a tensor to begin."""


IntTable = npt.NDArray[np.int32] | npt.NDArray[np.int64]


def one_copy(tables: Sequence[IntTable], device: torch.device) -> list[torch.Tensor]:
    """The tables on a device, as views of one tensor; each begins at a multiple of 16 bytes.

    Args:
        tables: Arrays of one dtype and any shapes.
        device: Where to copy them.
    """
    step = _ALIGNED // tables[0].itemsize
    sizes = [-(-table.size // step) * step for table in tables]
    starts = [0, *accumulate(sizes)]
    packed = np.zeros(starts[-1], tables[0].dtype)
    for start, table in zip(starts, tables, strict=False):
        packed[start : start + table.size] = table.ravel()
    there = torch.from_numpy(packed).to(device)
    return [
        there[start : start + prod(table.shape)].view(table.shape)
        for start, table in zip(starts, tables, strict=False)
    ]
