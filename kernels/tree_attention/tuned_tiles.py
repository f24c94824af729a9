"""Tiles measured to be fastest, kept per kind of device in the cache folder.

:mod:`icm_fast.model.forward.tile_search` finds them. Without a stored pair, tiles.py has defaults.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from icm_fast.kernels.tree_attention.kept import (
    damaged,
    device_name,
    keep,
    kept_file,
    read_kept,
)
from icm_fast.kernels.tree_attention.tiles import Tile, TilePair

_FOLDER = "kernel-tiles"
_SIZES = len(Tile.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class HeadShape:
    """What the kernel is compiled for.

    Attributes:
        group: Query heads per key-value head.
        head_dim: Width of a query or key.
        value_dim: Width of a value.
        dtype: Of query, keys and values.
    """

    group: int
    head_dim: int
    value_dim: int
    dtype: torch.dtype


@cache
def stored_tiles(shape: HeadShape, device: torch.device) -> TilePair | None:
    """The tiles stored for this kind of device and this version of Triton; None if there are none.

    Read once per process: tiles set the order of sums, and so the last bits of every score.

    Raises:
        InputError: The file does not hold tiles of this shape and device.
    """
    key, what = _key(shape, device), f"tiles of {shape}"
    content = read_kept(_FOLDER, key, what)
    if content is None:
        return None
    try:
        return TilePair(_tile(content["long"]), _tile(content["short"]))
    except (ValueError, KeyError, TypeError):
        raise damaged(_FOLDER, key, what) from None


def store_tiles(pair: TilePair, shape: HeadShape, device: torch.device) -> Path:
    """Store a pair for this kind of device; later processes use it."""
    content = {name: list(asdict(tile).values()) for name, tile in pair._asdict().items()}
    path = keep(_FOLDER, _key(shape, device), content)
    stored_tiles.cache_clear()
    return path


def tiles_file(shape: HeadShape, device: torch.device) -> Path:
    """File of the tiles of a shape, whether or not it exists."""
    return kept_file(_FOLDER, _key(shape, device))


def _key(shape: HeadShape, device: torch.device) -> dict[str, str | int]:
    """What the fastest tile depends on."""
    return {
        "device": device_name(device),
        "triton": version("triton"),
        "group": shape.group,
        "head_dim": shape.head_dim,
        "value_dim": shape.value_dim,
        "dtype": str(shape.dtype),
    }


def _tile(sizes: list[int]) -> Tile:
    if len(sizes) != _SIZES or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(sizes)
    return Tile(*sizes)
