"""Not a peer but the limit of all: torch's fastest matrix product on the same threads."""

from __future__ import annotations

import time
from typing import Any

from .protocol import Job, answer

SIZES = (1024, 2048)
REPEATS = 5


def gemm_peak(job: Job) -> dict[str, Any]:
    """Best rate over square products in ``job.dtype``.

    Option ``sizes``: rows of the matrices.

    Returns:
        ``flops_per_second`` of the best size and ``by_size``.
    """
    import torch

    torch.set_num_threads(job.threads)
    sizes = job.options.get("sizes", SIZES)
    rates = {size: _rate(size, getattr(torch, job.dtype)) for size in sizes}
    return {"flops_per_second": max(rates.values()), "by_size": rates}


def _rate(size: int, dtype: Any) -> float:
    import torch

    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype)
    torch.matmul(a, b, out=out)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        torch.matmul(a, b, out=out)
        seconds.append(time.perf_counter() - started)
    return float(2 * size**3 / min(seconds))


if __name__ == "__main__":
    answer(gemm_peak)
