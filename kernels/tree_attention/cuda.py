"""Tree attention by the library ``icm_fast_cuda``, built from csrc/cuda where nvcc is installed."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import icm_fast._core
from icm_fast.kernels.one_copy import one_copy
from icm_fast.kernels.tree_attention.cuda_library import (
    PRODUCTS,
    RANGE,
    SEGMENT,
    AttentionCall,
    CudaLibrary,
    HeadRows,
)
from icm_fast.kernels.tree_attention.work import AttentionWork

HEAD_DIMS = (64, 128, 256)
DTYPES = {torch.bfloat16: 0, torch.float16: 1}
WGMMA_CAPABILITY = (9, 0)
WIDEST_WGMMA = 128
"""Wider heads take the kernel with mma."""
INT32_MAX = 2**31 - 1


def library_path() -> Path:
    """Path of the library in an installation, whether or not it was built."""
    return Path(icm_fast._core.__file__).parent / "libicm_fast_cuda.so"


@cache
def installed_library() -> CudaLibrary:
    """The library of this installation, loaded once."""
    return CudaLibrary(library_path())


@dataclass(frozen=True, slots=True)
class DeviceWork:
    """An :class:`AttentionWork` as the kernels read it."""

    segments: torch.Tensor  # [n, 5] int32
    ranges: torch.Tensor  # [n, 2] int32: position, slot
    tiles: torch.Tensor  # [n, 5] int32
    merges: torch.Tensor  # [n, 4] int32
    n_partials: int
    n_slots: int  # minimum size of the pool


def serves(query: torch.Tensor, value_pool: torch.Tensor) -> bool:
    """Whether :func:`tree_attention` accepts these tensors on this machine."""
    return not unserved_because(query, value_pool)


def unserved_because(query: torch.Tensor, value_pool: torch.Tensor) -> str:
    """Why :func:`tree_attention` does not accept these tensors here; empty where it does."""
    if query.device.type != "cuda":
        return "the CUDA kernels need an NVIDIA GPU"
    if query.dtype not in DTYPES:
        return f"the CUDA kernels take bfloat16 or float16, not {query.dtype}".replace("torch.", "")
    width, value_width = query.shape[-1], value_pool.shape[-1]
    if width not in HEAD_DIMS or value_width != width:
        return f"the CUDA kernels take heads 64, 128 or 256 wide, not {width}"
    if not library_path().is_file():
        return "the CUDA kernels are not built (docs/install.md says how)"
    return ""


def copies_boxes(
    key_pool: torch.Tensor, value_pool: torch.Tensor, library: CudaLibrary | None = None
) -> bool:
    """Whether the kernel with ``wgmma`` copies contiguous keys in boxes, not row by row.

    Args:
        key_pool: ``[n_kv_heads, pool_tokens, head_dim]``, bfloat16 or float16.
        value_pool: The same shape.
        library: The installed one if None.
    """
    library = installed_library() if library is None else library
    kv_heads, n_slots, head_dim = key_pool.shape
    return library.copies_boxes(
        AttentionCall(
            keys=_head_rows(key_pool),
            values=_head_rows(value_pool),
            n_kv_heads=kv_heads,
            n_slots=n_slots,
            head_dim=head_dim,
            dtype=DTYPES[key_pool.dtype],
            products=PRODUCTS["wgmma"],
        )
    )


def tree_attention(
    query: torch.Tensor,
    key_pool: torch.Tensor,
    value_pool: torch.Tensor,
    work: AttentionWork,
    *,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    keys_per_split: int = 0,
    products: str = "mma",
    library: CudaLibrary | None = None,
) -> torch.Tensor:
    """Same contract as :func:`icm_fast.kernels.tree_attention.naive.tree_attention`.

    All tensors are bfloat16 or float16 on one device, with a head_dim of 64, 128 or 256 for keys
    and values alike. The result is a view of ``[n_tokens, n_heads, head_dim]``, computed in order
    on the current stream.

    Args:
        query: ``[n_heads, n_tokens, head_dim]``.
        key_pool: ``[n_kv_heads, pool_tokens, head_dim]``.
        value_pool: ``[n_kv_heads, pool_tokens, head_dim]``.
        work: The segments.
        scaling: Factor on the dot products.
        sliding_window: A query at position p sees keys at positions > p - sliding_window.
        softcap: Scores become ``softcap * tanh(score / softcap)``.
        sinks: ``[n_heads]`` logits that enter the softmax without a value.
        keys_per_split: Contexts longer than this are attended to in parts that run in parallel; 0
            for never. Splitting changes the rounding, but not by what else is in the batch.
        products: Instructions of the tensor cores: ``mma`` on every device, or ``wgmma`` on compute
            capability 9.0 only (H100, H200). A head_dim of 256 always uses ``mma``.
        library: The installed one if None.
    """
    library = installed_library() if library is None else library
    _check_tensors(query, key_pool, value_pool, library)
    _check_products(products, query.device)
    n_heads, _, head_dim = query.shape
    group = n_heads // key_pool.shape[0]
    stream = _current_stream(query.device)
    tile_rows = library.tile_rows(products, head_dim)
    split = _Split(group, tile_rows, keys_per_split)
    device_work = _prepared(_Identity(work), split, query.device, stream, library)
    if device_work.n_slots > key_pool.shape[1]:
        raise ValueError(
            f"a range ends at slot {device_work.n_slots}, but the pool has {key_pool.shape[1]}"
        )
    out = query.new_empty(work.n_tokens, n_heads, head_dim).transpose(0, 1)
    rows = (device_work.n_partials, key_pool.shape[0], tile_rows)
    partial_out = query.new_empty(*rows, head_dim, dtype=torch.float32)
    partial_lse = query.new_empty(*rows, dtype=torch.float32)
    if sinks is not None:
        sinks = sinks.to(query.device, torch.float32).contiguous()
    call = AttentionCall(
        query=_head_rows(query),
        keys=_head_rows(key_pool),
        values=_head_rows(value_pool),
        out=_head_rows(out),
        segments=device_work.segments.data_ptr(),
        ranges=device_work.ranges.data_ptr(),
        tiles=device_work.tiles.data_ptr(),
        merges=device_work.merges.data_ptr(),
        sinks=None if sinks is None else sinks.data_ptr(),
        partial_out=partial_out.data_ptr(),
        partial_lse=partial_lse.data_ptr(),
        n_tiles=len(device_work.tiles),
        n_merges=len(device_work.merges),
        n_kv_heads=key_pool.shape[0],
        n_slots=key_pool.shape[1],
        group=group,
        head_dim=head_dim,
        dtype=DTYPES[query.dtype],
        products=PRODUCTS[products],
        tile_rows=tile_rows,
        window=sliding_window or 0,
        scaling=scaling,
        softcap=softcap or 0.0,
    )
    # The launch goes to the thread's current device, which need not be the tensors'.
    with torch.cuda.device(query.device) if query.is_cuda else nullcontext():
        library.attend(call, stream)
    return out


#: :func:`tree_attention` with ``wgmma``.
wgmma_tree_attention = partial(tree_attention, products="wgmma")


def _current_stream(device: torch.device) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0


def _check_tensors(
    query: torch.Tensor, key_pool: torch.Tensor, value_pool: torch.Tensor, library: CudaLibrary
) -> None:
    if query.device.type != library.device_type:
        raise ValueError(
            f"tensors are on {query.device}, but the kernels are for {library.device_type}"
        )
    if query.dtype not in DTYPES:
        raise ValueError(f"dtype {query.dtype} has no CUDA kernels; use bfloat16 or float16")
    head_dim = query.shape[-1]
    if head_dim not in HEAD_DIMS:
        raise ValueError(f"head_dim {head_dim} has no CUDA kernels; use one of {HEAD_DIMS}")
    if key_pool.shape != value_pool.shape or key_pool.shape[-1] != head_dim:
        raise ValueError("keys, values and queries must have the same width")
    if query.shape[0] % key_pool.shape[0] != 0:
        raise ValueError(
            f"{query.shape[0]} heads are not a multiple of {key_pool.shape[0]} key-value heads"
        )
    for pool in (key_pool, value_pool):
        if pool.device != query.device or pool.dtype != query.dtype:
            raise ValueError("query, keys and values must share one device and one dtype")


def _check_products(products: str, device: torch.device) -> None:
    if products not in PRODUCTS:
        raise ValueError(f"products must be one of {tuple(PRODUCTS)}, not {products!r}")
    if products == "wgmma" and device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found != WGMMA_CAPABILITY:
            raise ValueError(f"wgmma needs compute capability 9.0, {device} has {found}; use mma")


def _head_rows(tensor: torch.Tensor) -> HeadRows:
    if tensor.stride(2) != 1:
        raise ValueError("rows must be contiguous; use .contiguous()")
    return HeadRows(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


class _Split(NamedTuple):
    """How work is cut into tiles."""

    group: int
    tile_rows: int
    keys_per_split: int


class _Identity:
    """A cache key by identity: comparing two works costs more than preparing one."""

    __slots__ = ("work",)

    def __init__(self, work: AttentionWork) -> None:
        self.work = work

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.work is other.work

    def __hash__(self) -> int:
        return id(self.work)


# All layers of a forward pass share one work. The cache entry keeps it alive, so that its id stays
# unique. Its tensors are copied on one stream, and only that stream is sure to see them complete.
@lru_cache(maxsize=2)
def _prepared(
    key: _Identity,
    split: _Split,
    device: torch.device,
    stream: int,
    library: CudaLibrary,
) -> DeviceWork:
    segments, ranges = _segments_and_ranges(key.work)
    ends = [end for work in key.work.segments for _, end in work.ranges]
    ends += [work.own + work.end - work.begin for work in key.work.segments]
    n_slots = max(ends, default=0)
    if max(n_slots, key.work.n_tokens * split.group) > INT32_MAX:
        raise ValueError("slots and query rows must be below 2^31")
    segment_array = np.array(segments, np.int32).reshape(-1, SEGMENT)
    range_array = np.array(ranges, np.int32).reshape(-1, RANGE)
    tiles, merges, n_partials = library.plan_tiles(segment_array, *split)
    on_device = one_copy([segment_array, range_array, tiles, merges], device)
    there_segments, there_ranges, there_tiles, there_merges = on_device
    return DeviceWork(
        segments=there_segments,
        ranges=there_ranges,
        tiles=there_tiles,
        merges=there_merges,
        n_partials=n_partials,
        n_slots=n_slots,
    )


def _segments_and_ranges(
    work: AttentionWork,
) -> tuple[list[tuple[int, ...]], list[tuple[int, int]]]:
    """Rows of :class:`DeviceWork`'s tables; a segment's own range is the last of its ranges."""
    segments: list[tuple[int, ...]] = []
    ranges: list[tuple[int, int]] = []
    for segment in work.segments:
        length, first, position = segment.end - segment.begin, len(ranges), 0
        for begin, end in (*segment.ranges, (segment.own, segment.own + length)):
            if begin < 0 or end < begin:
                raise ValueError(f"({begin}, {end}) is not a range of slots")
            ranges.append((position, begin))
            position += end - begin
        if position != segment.start + length:
            raise ValueError(
                f"ranges hold {position - length} tokens, but the segment starts at {segment.start}"
            )
        segments.append((segment.begin, length, segment.start, first, len(ranges)))
    return segments, ranges
