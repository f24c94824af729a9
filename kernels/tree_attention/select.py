"""Which implementations of tree attention a device has, and which one to select."""

from __future__ import annotations

import os

import torch

from icm_fast.errors import InputError
from icm_fast.kernels.tree_attention import cuda, measured, sdpa, trial
from icm_fast.kernels.tree_attention.cuda_library import PRODUCTS
from icm_fast.kernels.tree_attention.tiles import HEAD_DIMS
from icm_fast.kernels.tree_attention.versions import VERSIONS, Needs, name_of
from icm_fast.kernels.tree_attention.work import TreeAttention
from icm_fast.kernels.triton_devices import DTYPES, NEEDS_TRITON, has_triton_kernels

PRODUCTS_SETTING = "ICM_FAST_CUDA_PRODUCTS"
"""Environment variable: ``mma`` or ``wgmma`` forces the CUDA kernel with these instructions and
skips its trial. Unset (or ``auto``), the fastest kernel that passes its trial is selected."""

AUTO = "auto"


def available(device: torch.device | str) -> tuple[str, ...]:
    """Names of our implementations that run on a device, preferred ones first."""
    device = torch.device(device)
    built = device.type == "cuda" and cuda.library_path().is_file()
    products = _select_products(device) if built else None
    compiles = has_triton_kernels(device)
    names = ("cuda_wgmma",) * (products == "wgmma") + ("cuda",) * (products is not None)
    return (*names, *("triton",) * compiles, "sdpa", "naive")


def select_tree_attention(
    query: torch.Tensor,
    value_pool: torch.Tensor,
    *,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> TreeAttention:
    """The fastest implementation for these tensors; all have the signature of ``naive``.

    A library serves only where it was measured to be faster than ours by more than a tenth. Where
    ``ICM_FAST_CUDA_PRODUCTS`` asks for a CUDA kernel, none does.

    Args:
        query: ``[n_heads, n_tokens, head_dim]``.
        value_pool: ``[n_kv_heads, pool_tokens, value_dim]``.
        softcap: See ``naive.tree_attention``, as for ``sinks``.
        sinks: Likewise.
    """
    if query.device.type == "cuda" and not asked_for():
        needs = Needs.of(query, value_pool, softcap=softcap, sinks=sinks)
        if (library := measured.library_instead(needs)) is not None:
            return library.load()
    return select_ours(query, value_pool)


def select_ours(query: torch.Tensor, value_pool: torch.Tensor) -> TreeAttention:
    """The fastest of our own implementations for these tensors."""
    if cuda.serves(query, value_pool) and (products := _select_products(query.device)) is not None:
        return VERSIONS[trial.CUDA_VERSIONS[products]].load()
    if query.dtype not in DTYPES:
        return sdpa.tree_attention
    return select_for_device(query.device, max(query.shape[-1], value_pool.shape[-1]))


def asked_for() -> str:
    """Instructions of the CUDA kernel that the environment asks for; empty if it asks for none."""
    found = os.environ.get(PRODUCTS_SETTING, AUTO)
    return "" if found == AUTO else found


def libraries_because(
    query: torch.Tensor,
    value_pool: torch.Tensor,
    attend: TreeAttention,
    *,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> dict[str, str]:
    """Why each library other than the one that serves does not, by name; empty but on a GPU.

    Args:
        query: ``[n_heads, n_tokens, head_dim]``.
        value_pool: ``[n_kv_heads, pool_tokens, value_dim]``.
        attend: What :func:`select_tree_attention` took.
        softcap: As given to it.
        sinks: Likewise.
    """
    if query.device.type != "cuda":
        return {}
    needs = Needs.of(query, value_pool, softcap=softcap, sinks=sinks)
    reasons = measured.others_because(needs, name_of(attend))
    if asked := asked_for():
        return dict.fromkeys(reasons, f"{PRODUCTS_SETTING}={asked} asks for a kernel of ours")
    return reasons


def slower_because(
    query: torch.Tensor, value_pool: torch.Tensor, attend: TreeAttention | None = None
) -> str:
    """Why :func:`select_tree_attention` takes nothing faster on a GPU; empty where nothing is.

    Args:
        query: ``[n_heads, n_tokens, head_dim]``.
        value_pool: ``[n_kv_heads, pool_tokens, value_dim]``.
        attend: What it took, if that is known; a library serves only where it is the fastest.
    """
    if query.device.type != "cuda":
        return ""
    if attend is not None and VERSIONS[name_of(attend)].is_library:
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
    if asked_for() == products:
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
    found = asked_for()
    if not found:
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
