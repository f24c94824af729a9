"""Which versions of tree attention there are, and which one to take."""

from __future__ import annotations

import os

import torch

from icm_fast.errors import InputError
from icm_fast.kernels.tree_attention import cuda, sdpa, trial
from icm_fast.kernels.tree_attention.cuda_library import PRODUCTS
from icm_fast.kernels.tree_attention.tiles import HEAD_DIMS
from icm_fast.kernels.tree_attention.work import TreeAttention
from icm_fast.kernels.triton_devices import DTYPES, has_triton_kernels

PRODUCTS_SETTING = "ICM_FAST_CUDA_PRODUCTS"
"""Environment variable: ``mma`` or ``wgmma`` takes the CUDA kernel with these instructions as it
is. Without it (or with ``auto``), the fastest one for the device that passes its trial there."""

AUTO = "auto"


def available(device: torch.device | str) -> tuple[str, ...]:
    """Names of the versions that run on a device, the preferred one first."""
    device = torch.device(device)
    built = device.type == "cuda" and cuda.library_path().is_file()
    products = _products(device) if built else None
    compiles = has_triton_kernels(device)
    names = ("cuda_wgmma",) * (products == "wgmma") + ("cuda",) * (products is not None)
    return (*names, *("triton",) * compiles, "sdpa", "naive")


def fastest(query: torch.Tensor, value_pool: torch.Tensor) -> TreeAttention:
    """The preferred version that takes these tensors; all have the signature of ``naive``."""
    if cuda.serves(query, value_pool) and (products := _products(query.device)) is not None:
        return cuda.wgmma_tree_attention if products == "wgmma" else cuda.tree_attention
    if query.dtype not in DTYPES:
        return sdpa.tree_attention
    return tree_attention_on(query.device, max(query.shape[-1], value_pool.shape[-1]))


def _products(device: torch.device) -> str | None:
    """Instructions of the CUDA kernel to take, None for none."""
    found = os.environ.get(PRODUCTS_SETTING, AUTO)
    if found == AUTO:
        return trial.chosen(device)
    if found not in PRODUCTS:
        known = ", ".join((AUTO, *PRODUCTS))
        raise InputError(f"{PRODUCTS_SETTING} must be one of {known}, not {found!r}")
    return found


def tree_attention_on(device: torch.device, width: int) -> TreeAttention:
    """The Triton kernel on an NVIDIA device of compute capability 8.0 or later, else sdpa.

    Args:
        device: Where query, keys and values are.
        width: Of a head, the greater one of query and value.
    """
    if width > HEAD_DIMS[-1] or not has_triton_kernels(device):
        return sdpa.tree_attention
    from icm_fast.kernels.tree_attention import triton

    return triton.tree_attention
