"""Which implementations of tree attention a device has, and which one to select."""

from __future__ import annotations

import os

import torch

from icm_fast.errors import InputError
from icm_fast.kernels.tree_attention import cuda, sdpa, trial
from icm_fast.kernels.tree_attention.cuda_library import PRODUCTS
from icm_fast.kernels.tree_attention.tiles import HEAD_DIMS
from icm_fast.kernels.tree_attention.work import TreeAttention
from icm_fast.kernels.triton_devices import DTYPES, NEEDS_TRITON, has_triton_kernels

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


def slower_because(query: torch.Tensor, value_pool: torch.Tensor) -> str:
    """Why :func:`select_tree_attention` takes nothing faster on a GPU; empty where nothing is."""
    if query.device.type != "cuda":
        return ""
    if reason := cuda.unserved_because(query, value_pool):
        width = max(query.shape[-1], value_pool.shape[-1])
        if query.dtype not in DTYPES or width > HEAD_DIMS[-1]:
            return f"{reason}, and the Triton kernel does not take these heads either"
        return reason if has_triton_kernels(query.device) else f"{reason}, and {NEEDS_TRITON}"
    products = _select_products(query.device)
    if products is None:
        return "no CUDA kernel passed its trial on this device"
    if torch.cuda.get_device_capability(query.device) != cuda.WGMMA_CAPABILITY:
        return ""
    if products == "wgmma":
        return _wgmma_because(query, value_pool)
    if os.environ.get(PRODUCTS_SETTING, AUTO) == products:
        return f"{PRODUCTS_SETTING}={products} asks for it"
    return "the kernel with wgmma did not pass its trial on this device"


def _wgmma_because(query: torch.Tensor, value_pool: torch.Tensor) -> str:
    """Why the kernel with wgmma is not what it could be."""
    if query.shape[-1] > cuda.WIDEST_WGMMA:
        return f"heads {query.shape[-1]} wide have no kernel with wgmma"
    if not cuda.copies_boxes(value_pool, value_pool):
        return "the driver cannot copy keys in boxes, so they are copied row by row"
    return ""


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
