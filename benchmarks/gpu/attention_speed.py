"""Tree attention on a device: our Triton kernel against scaled_dot_product_attention per segment.

    python -m benchmarks.gpu.attention_speed [--dtype bfloat16]

Batches are from the middle of a leave-one-out tree. Answers are compared before anything is timed.
Tiles are those of `icm-fast tune-kernels` if that was run, otherwise the defaults.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import product

import torch

from benchmarks.attention_cases import HEADS, Batch, by_definition, mid_tree_batch
from benchmarks.gpu.timing import milliseconds
from icm_fast.kernels.tree_attention import sdpa, triton
from icm_fast.model.forward.tile_search import LIMITS

LIMIT = {str(dtype).removeprefix("torch."): limit for dtype, limit in LIMITS.items()}
"""Largest difference, relative to the largest value."""

SIZES = (16, 64, 256)
"""Numbers of examples of the plans."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="bfloat16", choices=LIMIT)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.dtype}\n")
    print("| model | n | rows | segments | sdpa ms | triton ms | ratio | TFLOP/s |")
    print("|---" * 8 + "|")
    for model, n in product(HEADS, SIZES):
        batch = to_device(mid_tree_batch(model, options.dtype, n))
        print(row(model, n, batch, options.dtype), flush=True)


def to_device(batch: Batch) -> Batch:
    return Batch(batch.query.cuda(), batch.keys.cuda(), batch.values.cuda(), batch.work)


def row(model: str, n: int, batch: Batch, dtype: str) -> str:
    wrong = error(batch, attend(batch)())
    if wrong > LIMIT[dtype]:
        return f"| {model} | {n} | WRONG: differs by {wrong:.1e} |"
    ours, torchs = (milliseconds(call, 20) for call in (attend(batch), with_sdpa(batch)))
    rate = batch.flops / ours / 1e9
    segments = len(batch.work.segments)
    return (
        f"| {model} | {n} | {batch.work.n_tokens} | {segments} | {torchs:.3f} | {ours:.3f} "
        f"| {torchs / ours:.1f} | {rate:.0f} |"
    )


Attend = Callable[[], torch.Tensor]


def attend(batch: Batch) -> Attend:
    tensors = (batch.query, batch.keys, batch.values)
    return lambda: triton.tree_attention(*tensors, batch.work, scaling=batch.scaling)


def with_sdpa(batch: Batch) -> Attend:
    tensors = (batch.query, batch.keys, batch.values)
    return lambda: sdpa.tree_attention(*tensors, batch.work, scaling=batch.scaling)


def error(batch: Batch, out: torch.Tensor) -> float:
    expected = by_definition(batch)
    return float((out.float() - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    main()
