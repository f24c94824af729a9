"""Which implementations of tree attention a device has, and which one to select."""

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
"""Environment variable: ``mma`` or ``wgmma`` forces the CUDA kernel with these instructions and
skips its trial. Unset (or ``auto``), the fastest kernel that passes its trial is selected."""

AUTO = "auto"


def available(device: torch.device | str) -> tuple[str, ...]:
    """Names of the implementations that run on a device, preferred ones first."""
    device = torch.device(device)
    built = device.type == "cuda" and cuda.library_path().is_file()
    products = _select_products(device) if built else None
    compiles = has_triton_kernels(device)
    names = ("cuda_wgmma",) * (products == "wgmma") + ("cuda",) * (products is not None)
    return (*names, *("triton",) * compiles, "sdpa", "naive")


def select_tree_attention(query: torch.Tensor, value_pool: torch.Tensor) -> TreeAttention:
    """The fastest implementation for these tensors; all have the signature of ``naive``."""
    if cuda.serves(query, value_pool) and (products := _select_products(query.device)) is not None:
        return cuda.wgmma_tree_attention if products == "wgmma" else cuda.tree_attention
    if query.dtype not in DTYPES:
        return sdpa.tree_attention
    return select_for_device(query.device, max(query.shape[-1], value_pool.shape[-1]))


def _select_products(device: torch.device) -> str | None:
    """Tensor-core instructions of the CUDA kernel to use; None for another implementation."""
    found = os.environ.get(PRODUCTS_SETTING, AUTO)
    if found == AUTO:
        return trial.select_products(device)
    if found not in PRODUCTS:
        known = ", ".join((AUTO, *PRODUCTS))
        raise InputError(f"{PRODUCTS_SETTING} must be one of {known}, not {found!r}")
    return found


def select_for_device(device: torch.device, width: int) -> TreeAttention:
    """The Triton kernel on NVIDIA devices of compute capability 8.0 or later, otherwise sdpa.

    Args:
        device: Where query, keys and values are.
        width: Head width, the greater of query and value.
    """
    if width > HEAD_DIMS[-1] or not has_triton_kernels(device):
        return sdpa.tree_attention
    from icm_fast.kernels.tree_attention import triton

    return triton.tree_attention
