"""One step in a process of its own: `python -m benchmarks.gpu.visit STEP --results FILE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.gpu.visit.attention import attention, small
from benchmarks.gpu.visit.ceilings import environment
from benchmarks.gpu.visit.record import Record
from benchmarks.gpu.visit.whole import exact, whole
from icm_fast.kernels.tree_attention import trial


def try_kernel(products: str, record: Record) -> None:
    """The trial that the package makes before it takes a kernel; passed ones are remembered."""
    reason = trial.failure(trial.CUDA_VERSIONS[products], record.device)
    record.line(name=f"trial of {products}", passed=not reason, reason=reason)
    if reason:
        record.failures.append(f"{products}: {reason}")


STEPS = {
    "environment": environment,
    "trial-wgmma": lambda record: try_kernel("wgmma", record),
    "trial-mma": lambda record: try_kernel("mma", record),
    "exact": exact,
    "attention": attention,
    "whole": whole,
    "small": small,
}


def main() -> None:
    """Run a step; exit with 1 if a part of it failed, was wrong, or fell back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="dry run on a CPU, at tiny sizes")
    asked = parser.parse_args()
    if not asked.tiny and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device; --tiny is a dry run without one")
    device = torch.device("cpu") if asked.tiny else torch.device("cuda", 0)
    record = Record(asked.results, asked.step, device, tiny=asked.tiny)
    STEPS[asked.step](record)
    if record.failures:
        sys.exit("\n".join(record.failures))


if __name__ == "__main__":
    main()
