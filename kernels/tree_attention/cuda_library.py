"""The shared library ``icm_fast_cuda`` through ctypes: the structs and functions of its header."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import numpy.typing as npt

from icm_fast.errors import InputError

ABI_VERSION = 4
PRODUCTS = {"mma": 0, "wgmma": 1}
# Number of int32 fields in the structs of csrc/cuda/tree_attention.hpp.
SEGMENT, RANGE, TILE, MERGE = 5, 2, 5, 4

IntTable = npt.NDArray[np.int32]
"""Rows of one of these structs, ``[n, fields]``."""


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
        *((name, ctypes.c_int32) for name in ("n_tiles", "n_merges", "n_kv_heads", "n_slots")),
        *(
            (name, ctypes.c_int32)
            for name in ("group", "head_dim", "dtype", "products", "tile_rows", "window")
        ),
        *((name, ctypes.c_float) for name in ("scaling", "softcap")),
    )


class CudaLibrary:
    """The functions of one shared library."""

    def __init__(self, path: Path) -> None:
        """Load the library.

        Raises:
            InputError: It is missing, cannot be loaded, or was built for another icm_fast.
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
                f"{path} has interface {found}, not {ABI_VERSION}; rebuild the CUDA kernels"
            )
        #: The type of torch device whose memory it reads; ``cpu`` for the emulation in tests.
        self.device_type = self._library.icm_fast_cuda_device_type().decode()

    def tile_rows(self, products: str, head_dim: int) -> int:
        """Query rows of a tile: of this width's kernel with ``products``, or with ``mma``."""
        return int(
            self._library.icm_fast_cuda_tile_rows(
                ctypes.c_int32(PRODUCTS[products]), ctypes.c_int32(head_dim)
            )
        )

    def copies_boxes(self, call: AttentionCall) -> bool:
        """Whether a call copies blocks of keys in boxes instead of row by row."""
        return bool(self._library.icm_fast_cuda_copies_boxes(ctypes.byref(call)))

    def plan_tiles(
        self, segments: IntTable, group: int, tile_rows: int, keys_per_split: int
    ) -> tuple[IntTable, IntTable, int]:
        """Tiles, merges and the number of partial results of ``segments`` [n, 5]."""
        counts = TileCounts()

        def call(tiles: int | None, merges: int | None) -> None:
            self._library.icm_fast_cuda_plan_tiles(
                ctypes.c_void_p(segments.ctypes.data),
                ctypes.c_int32(len(segments)),
                ctypes.c_int32(group),
                ctypes.c_int32(tile_rows),
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
