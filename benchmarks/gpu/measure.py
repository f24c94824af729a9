"""Time of one exact U(D) on this GPU, measured layer by layer, next to the prediction.

    python -m benchmarks.gpu.measure --sizes 64,256 -o benchmarks/results/gpu.json

With ICM_FAST_CUDA_PRODUCTS=wgmma on an H100 or H200, the CUDA kernel with wgmma is used. It takes
minutes. The attention's answers are compared with torch's first. `--device cpu` runs the same on a
small shape, as a check.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.layers import measure
from benchmarks.gpu.model import GPUS, KERNELS, SHAPES, Shape
from icm_fast.files import write_atomically
from icm_fast.kernels.tree_attention import select
from icm_fast.plan.uniform import uniform_plan
from icm_fast.runs.provenance import versions as package_versions

SMALL = {"small": Shape("small", 64, 2, 4, 2, 16, 96)}
LIMIT = 2e-2
"""Largest difference of the attention, relative to the largest value (bfloat16)."""
MINUTES = 8
"""Later shapes are skipped."""

Row = dict[str, Any]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="64,256")
    parser.add_argument("--gpu", choices=GPUS, help="by default from the device's name")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    gpu = arguments.gpu or next((known for known in GPUS if known in name), nearest(device))
    rows: list[Row] = []
    document = {
        "command": " ".join(["python -m benchmarks.gpu.measure", *sys.argv[1:]]),
        "device": name,
        "predicted_as": gpu,
        "attention": select.available(device)[0],
        "versions": package_versions(),
        "rows": rows,
    }
    print(f"{name}, predicted as {GPUS[gpu].name}, attention by {document['attention']}\n")
    print("| model | n | tokens | linear s | predicted | attention s | predicted | worst error |")
    print("|---" * 8 + "|")
    started = time.monotonic()
    shapes = SHAPES if device.type == "cuda" else SMALL
    for n, shape in product(map(int, arguments.sizes.split(",")), shapes.values()):
        if time.monotonic() - started > 60 * MINUTES:
            print(f"\nskipped after {MINUTES} minutes: {shape.name}, n = {n}")
            continue
        row = measured_row(n, shape, gpu, device, arguments.batch_tokens)
        rows.append(row)
        print(
            f"| {shape.name} | {n} | {row['tokens']:,} | {row['linear_seconds']:.3f} "
            f"| {row['predicted_linear']:.3f} | {row['attention_seconds']:.3f} "
            f"| {row['predicted_attention']:.3f} | {row['error']:.1e} |",
            flush=True,
        )
        if row["error"] > LIMIT:
            sys.exit(f"WRONG: the attention differs by {row['error']:.1e}, limit {LIMIT}")
    if arguments.output is not None:
        write_atomically(arguments.output, (json.dumps(document, indent=1) + "\n").encode())


def nearest(device: torch.device) -> str:
    """The known GPU of the same generation, for a device with an unknown name."""
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
    return "H100" if hopper else "A100"


def measured_row(n: int, shape: Shape, gpu: str, device: torch.device, batch_tokens: int) -> Row:
    """Sums over the batches of one plan, and the batches themselves."""
    plan = uniform_plan(
        n,
        demonstration=43,
        query=40,
        root=1,
        kv_budget_tokens=1 << 20 if device.type == "cuda" else 1 << 12,
        batch_tokens=batch_tokens,
    )
    products = "wgmma" if select.available(device)[0] == "cuda_wgmma" else "mma"
    kernel = KERNELS[products if gpu in KERNELS[products].rates else "mma"]
    found = measure(plan, shape, GPUS[gpu], kernel.rates[gpu], device=device, tile=kernel.tile)
    batches = [asdict(batch) for batch in found]
    keys = ("linear_seconds", "predicted_linear", "attention_seconds", "predicted_attention")
    return {
        "model": shape.name,
        "n": n,
        "tokens": int(plan.total_tokens),
        **{key: sum(b[key] for b in batches) for key in keys},
        "error": max(b["error"] for b in batches),
        "batches": batches,
    }


if __name__ == "__main__":
    main()
