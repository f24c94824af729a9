"""Tree attention by the library ``icm_fast_cuda``, which csrc/cuda builds where nvcc is."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import icm_fast
from icm_fast.errors import InputError
from icm_fast.kernels.tree_attention.work import AttentionWork

HEAD_DIMS = (64, 128, 256)
ABI_VERSION = 1
TILE_ROWS = 64
DTYPES = {torch.bfloat16: 0, torch.float16: 1}
# int32 numbers in the structs of csrc/cuda/tree_attention.hpp.
SEGMENT, RANGE, TILE, MERGE = 5, 2, 5, 4
INT32_MAX = 2**31 - 1


class HeadRows(ctypes.Structure):
    """``icm_fast::cuda::HeadRows``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("head_stride", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
    )


class TileCounts(ctypes.Structure):
    """``icm_fast::cuda::TileCounts``."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("tiles", "merges", "partials"))


class AttentionCall(ctypes.Structure):
    """``icm_fast::cuda::AttentionCall``."""

    _fields_ = (
        *((name, HeadRows) for name in ("query", "keys", "values", "out")),
        *((name, ctypes.c_void_p) for name in ("segments", "ranges", "tiles", "merges")),
        *((name, ctypes.c_void_p) for name in ("sinks", "partial_out", "partial_lse")),
        *((name, ctypes.c_int32) for name in ("n_tiles", "n_merges", "n_kv_heads", "group")),
        *((name, ctypes.c_int32) for name in ("head_dim", "dtype", "window")),
        *((name, ctypes.c_float) for name in ("scaling", "softcap")),
    )


class CudaLibrary:
    """The functions of one shared library."""

    def __init__(self, path: Path) -> None:
        """Load the library.

        Raises:
            InputError: It is absent, cannot be loaded, or belongs to another version of icm_fast.
        """
        if not path.is_file():
            raise InputError(
                f"the CUDA kernels are not built ({path} does not exist); install with "
                "-C cmake.define.ICM_FAST_CUDA=ON and nvcc on the PATH"
            )
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise InputError(f"the CUDA kernels cannot be loaded: {error}") from None
        self._library.icm_fast_cuda_device_type.restype = ctypes.c_char_p
        self._library.icm_fast_cuda_status_text.restype = ctypes.c_char_p
        found = self._library.icm_fast_cuda_abi_version()
        if found != ABI_VERSION:
            raise InputError(
                f"{path} has interface {found}, not {ABI_VERSION}; build the CUDA kernels again"
            )
        #: The kind of torch device whose memory it takes; ``cpu`` for the emulation in tests.
        self.device_type = self._library.icm_fast_cuda_device_type().decode()

    def plan_tiles(
        self, segments: np.ndarray[Any, Any], group: int, keys_per_split: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
        """Tiles, merges and the number of partial results of ``segments`` [n, 5] int32."""
        counts = TileCounts()

        def call(tiles: int | None, merges: int | None) -> None:
            self._library.icm_fast_cuda_plan_tiles(
                ctypes.c_void_p(segments.ctypes.data),
                ctypes.c_int32(len(segments)),
                ctypes.c_int32(group),
                ctypes.c_int32(keys_per_split),
                ctypes.byref(counts),
                ctypes.c_void_p(tiles),
                ctypes.c_void_p(merges),
            )

        call(None, None)
        tiles = np.empty((counts.tiles, TILE), np.int32)
        merges = np.empty((counts.merges, MERGE), np.int32)
        call(tiles.ctypes.data, merges.ctypes.data)
        return tiles, merges, counts.partials

    def attend(self, call: AttentionCall, stream: int) -> None:
        """Enqueue one attention on a stream."""
        status = self._library.icm_fast_cuda_tree_attention(
            ctypes.byref(call), ctypes.c_void_p(stream)
        )
        if status != 0:
            text = self._library.icm_fast_cuda_status_text(ctypes.c_int32(status)).decode()
            raise RuntimeError(f"tree attention on {self.device_type}: {text}")


def library_path() -> Path:
    """Where an installation has the library, if it has one."""
    return Path(icm_fast.__file__).parent / "libicm_fast_cuda.so"


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
    n_slots: int  # the pool has to have so many


def serves(query: torch.Tensor, value_pool: torch.Tensor) -> bool:
    """Whether :func:`tree_attention` takes these tensors here."""
    return (
        query.device.type == "cuda"
        and query.dtype in DTYPES
        and query.shape[-1] in HEAD_DIMS
        and value_pool.shape[-1] == query.shape[-1]
        and library_path().is_file()
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
    library: CudaLibrary | None = None,
) -> torch.Tensor:
    """Same contract as :func:`icm_fast.kernels.tree_attention.naive.tree_attention`.

    All tensors are bfloat16 or float16 on one device, with a head_dim of 64, 128 or 256 for keys
    and values alike. The result is a view of ``[n_tokens, n_heads, head_dim]``. It is ready when
    the current stream has come so far.

    Args:
        query: See there.
        key_pool: See there.
        value_pool: See there.
        work: See there.
        scaling: See there.
        sliding_window: See there.
        softcap: See there.
        sinks: See there.
        keys_per_split: Contexts longer than this are attended to in parts that run side by side, 0
            for never. Results differ in rounding, not with the rest of the batch.
        library: The installed one if None.
    """
    library = installed_library() if library is None else library
    _check_tensors(query, key_pool, value_pool, library)
    n_heads, _, head_dim = query.shape
    group = n_heads // key_pool.shape[0]
    stream = _current_stream(query.device)
    device_work = _prepared(_Identity(work), group, keys_per_split, query.device, stream, library)
    if device_work.n_slots > key_pool.shape[1]:
        raise ValueError(f"a range ends at {device_work.n_slots}, outside the pool")
    out = query.new_empty(work.n_tokens, n_heads, head_dim).transpose(0, 1)
    rows = (device_work.n_partials, key_pool.shape[0], TILE_ROWS)
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
        group=group,
        head_dim=head_dim,
        dtype=DTYPES[query.dtype],
        window=sliding_window or 0,
        scaling=scaling,
        softcap=softcap or 0.0,
    )
    # The launch goes to the thread's current device, which need not be the tensors'.
    with torch.cuda.device(query.device) if query.is_cuda else nullcontext():
        library.attend(call, stream)
    return out


def _current_stream(device: torch.device) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0


def _check_tensors(
    query: torch.Tensor, key_pool: torch.Tensor, value_pool: torch.Tensor, library: CudaLibrary
) -> None:
    if query.device.type != library.device_type:
        raise ValueError(f"tensors are on {query.device}, the kernels for {library.device_type}")
    if query.dtype not in DTYPES:
        raise ValueError(f"dtype {query.dtype} has no CUDA kernels; use bfloat16 or float16")
    head_dim = query.shape[-1]
    if head_dim not in HEAD_DIMS:
        raise ValueError(f"head_dim {head_dim} has no CUDA kernels; they are for {HEAD_DIMS}")
    if key_pool.shape != value_pool.shape or key_pool.shape[-1] != head_dim:
        raise ValueError("keys and values must be as wide as queries")
    if query.shape[0] % key_pool.shape[0] != 0:
        raise ValueError(f"{query.shape[0]} heads do not share {key_pool.shape[0]} evenly")
    for pool in (key_pool, value_pool):
        if pool.device != query.device or pool.dtype != query.dtype:
            raise ValueError("query, keys and values must have one device and one dtype")


def _head_rows(tensor: torch.Tensor) -> HeadRows:
    if tensor.stride(2) != 1:
        raise ValueError("the numbers of a row must lie side by side; use .contiguous()")
    return HeadRows(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


class _Identity:
    """A key that equals its own work alone: to compare works costs more than to prepare one."""

    __slots__ = ("work",)

    def __init__(self, work: AttentionWork) -> None:
        self.work = work

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.work is other.work

    def __hash__(self) -> int:
        return id(self.work)


# All layers of a forward pass have the same work. The entry keeps it, so no other has its id. Its
# tensors are copied on one stream, and only there they are sure to have arrived.
@lru_cache(maxsize=2)
def _prepared(
    key: _Identity,
    group: int,
    keys_per_split: int,
    device: torch.device,
    stream: int,
    library: CudaLibrary,
) -> DeviceWork:
    segments, ranges = _segments_and_ranges(key.work)
    ends = [end for work in key.work.segments for _, end in work.ranges]
    ends += [work.own + work.end - work.begin for work in key.work.segments]
    n_slots = max(ends, default=0)
    if max(n_slots, key.work.n_tokens * group) > INT32_MAX:
        raise ValueError("slots and query rows must be below 2^31")
    segment_array = np.array(segments, np.int32).reshape(-1, SEGMENT)
    range_array = np.array(ranges, np.int32).reshape(-1, RANGE)
    tiles, merges, n_partials = library.plan_tiles(segment_array, group, keys_per_split)
    return DeviceWork(
        segments=torch.from_numpy(segment_array).to(device),
        ranges=torch.from_numpy(range_array).to(device),
        tiles=torch.from_numpy(tiles).to(device),
        merges=torch.from_numpy(merges).to(device),
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
                raise ValueError(f"range ({begin}, {end}) is none")
            ranges.append((position, begin))
            position += end - begin
        if position != segment.start + length:
            raise ValueError(f"ranges hold {position - length} tokens, not {segment.start}")
        segments.append((segment.begin, length, segment.start, first, len(ranges)))
    return segments, ranges
