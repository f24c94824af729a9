"""The time of a call on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable

import torch


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Median time of a call, after three others."""
    for _ in range(3):
        call()
    times: list[float] = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[repeats // 2]
