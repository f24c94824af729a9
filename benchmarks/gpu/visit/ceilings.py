"""Versions, and what the device reaches at best: matrix products by shape, and copies."""

from __future__ import annotations

import shutil
import subprocess

import torch

from benchmarks.gpu.visit.record import PEAK, Record
from icm_fast.kernels.tree_attention import cuda, select
from icm_fast.runs.provenance import versions

# Rows, columns and depth of products: a square one, and those of Llama-3.1-8B for a batch.
PRODUCTS = (
    (8192, 8192, 8192),
    (11008, 6144, 4096),
    (11008, 1024, 4096),
    (11008, 4096, 4096),
    (11008, 14336, 4096),
    (11008, 28672, 4096),
    (11008, 4096, 14336),
    (2752, 28672, 4096),
)
_SMI = ("nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit")


def environment(record: Record) -> None:
    """Write versions, then the ceilings."""
    on_gpu = record.device.type == "cuda"
    smi = [shutil.which(_SMI[0]) or _SMI[0], _SMI[1], "--format=csv,noheader"]
    record.line(
        versions=versions(),
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        device=torch.cuda.get_device_name(record.device) if on_gpu else "cpu",
        smi=_output(smi) if on_gpu else "",
        library=cuda.library_path().is_file(),
        attention=select.available(record.device),
    )
    for product in ((64, 32, 48),) if record.tiny else PRODUCTS:
        record.attempt(f"product {product}", lambda product=product: _product(record, product))
    record.attempt("copy", lambda: _copy(record, 1 << (16 if record.tiny else 31)))


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return (done.stdout or done.stderr).strip()


def _product(record: Record, sizes: tuple[int, int, int]) -> None:
    rows, columns, depth = sizes
    like = torch.empty(0, device=record.device, dtype=torch.bfloat16)
    a, b = like.new_empty(rows, depth).normal_(), like.new_empty(columns, depth).normal_()
    ms = record.milliseconds(lambda: a @ b.T)
    rate = 2 * rows * columns * depth / ms * 1e3
    record.line(name="product", sizes=sizes, ms=ms, tflops=rate / 1e12, of_peak=rate / PEAK)


def _copy(record: Record, n_bytes: int) -> None:
    source = torch.empty(n_bytes, dtype=torch.int8, device=record.device)
    target = torch.empty_like(source)
    ms = record.milliseconds(lambda: target.copy_(source))
    record.line(name="copy", gb_per_second=2 * n_bytes / ms / 1e6)
