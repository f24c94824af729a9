"""Tiles measured to be fastest, kept per kind of device in the cache folder.

:mod:`icm_fast.model.forward.tile_search` finds them. Without a stored pair, tiles.py has defaults.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from icm_fast.assets.cache import cache_dir, cache_folder, private_folder
from icm_fast.errors import InputError
from icm_fast.files import is_file, read_file, write_atomically, writing
from icm_fast.identity import json_digest
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
    path = tiles_file(shape, device)
    if not is_file(path):
        return None
    private_folder(path.parent)
    fix = "delete it"
    try:
        content = json.loads(read_file(path, fix))
        pair = TilePair(_tile(content["long"]), _tile(content["short"]))
        complete = content["key"] == _key(shape, device)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError):
        complete = False
    if not complete:
        raise InputError(f"{path} does not hold tiles of {shape}; {fix}")
    return pair


def store_tiles(pair: TilePair, shape: HeadShape, device: torch.device) -> Path:
    """Store a pair for this kind of device; later processes use it."""
    path = tiles_file(shape, device)
    content: dict[str, object] = {"key": _key(shape, device)}
    content |= {name: list(asdict(tile).values()) for name, tile in pair._asdict().items()}
    with writing(path):
        cache_folder(_FOLDER)
    write_atomically(path, json.dumps(content).encode() + b"\n")
    stored_tiles.cache_clear()
    return path


def tiles_file(shape: HeadShape, device: torch.device) -> Path:
    """File of the tiles of a shape, whether or not it exists."""
    return cache_dir() / _FOLDER / f"{json_digest(_key(shape, device))[:32]}.json"


def _key(shape: HeadShape, device: torch.device) -> dict[str, str | int]:
    """What the fastest tile depends on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"
    return {
        "device": name,
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
