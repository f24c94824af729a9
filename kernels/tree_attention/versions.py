"""Which versions of tree attention there are, and which one to take."""

from __future__ import annotations

import os

import torch

from icm_fast.errors import InputError
from icm_fast.kernels.tree_attention import choice, cuda, sdpa
from icm_fast.kernels.tree_attention.choice import TreeAttention
from icm_fast.kernels.tree_attention.cuda_library import PRODUCTS
from icm_fast.kernels.triton_devices import DTYPES, has_triton_kernels

PRODUCTS_SETTING = "ICM_FAST_CUDA_PRODUCTS"
"""Environment variable: ``mma``, or ``wgmma`` for the CUDA kernel of H100 and H200, which is not
taken by itself because it was not run on a device so far."""


def available(device: torch.device | str) -> tuple[str, ...]:
    """Names of the versions that run on a device, the preferred one first."""
    device = torch.device(device)
    built = device.type == "cuda" and cuda.library_path().is_file()
    compiles = has_triton_kernels(device)
    wanted = built and _products() == "wgmma"
    names = ("cuda_wgmma",) * wanted + ("cuda",) * built + ("triton",) * compiles
    return (*names, "sdpa", "naive")


def fastest(query: torch.Tensor, value_pool: torch.Tensor) -> TreeAttention:
    """The preferred version that takes these tensors; all have the signature of ``naive``."""
    if cuda.serves(query, value_pool):
        return cuda.wgmma_tree_attention if _products() == "wgmma" else cuda.tree_attention
    if query.dtype not in DTYPES:
        return sdpa.tree_attention
    return choice.tree_attention_on(query.device, max(query.shape[-1], value_pool.shape[-1]))


def _products() -> str:
    found = os.environ.get(PRODUCTS_SETTING, "mma")
    if found not in PRODUCTS:
        raise InputError(f"{PRODUCTS_SETTING} must be one of {', '.join(PRODUCTS)}, not {found!r}")
    return found
