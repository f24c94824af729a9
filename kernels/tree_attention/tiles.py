"""Tiles of the Triton kernel: plain data, by head width, dtype and compute capability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

HEAD_DIMS = (32, 64, 80, 96, 128, 256)
"""Head widths that are compiled ahead of time; tiles are listed by the next power of two."""

TARGETS = (80, 90)
"""Compute capabilities that the tiles are compiled for ahead of time."""

SHARED_BYTES = {80: 99 * 1024, 90: 227 * 1024}
"""Shared memory that a block may use: the minimum over all devices with a target's tiles."""

SHORT_ROWS = 16
"""Segments of at most this many rows (tokens x heads of a group) take the short tile."""

EVERY_LENGTH = range(1, 1 << 62)
"""Lengths of segments, in rows."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Sizes of one launch.

    Attributes:
        block_m: Rows, i.e. (token, head of the group) pairs, of a program.
        block_n: Keys of a step.
        num_warps: Warps of a program.
        num_stages: Steps whose keys and values are loaded at the same time.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


class TileShare(NamedTuple):
    """A tile and the segments that take it, by their rows (tokens x heads of a group)."""

    tile: Tile
    lengths: range


class TilePair(NamedTuple):
    """The tile of long segments and that of segments of at most SHORT_ROWS rows."""

    long: Tile
    short: Tile


# (target, bytes of an element, padded head width): (tile of long segments, tile of short ones).
# None spills registers, shared memory stays within SHARED_BYTES (tables in benchmarks/gpu), and
# where registers allow, two programs fit on a multiprocessor. The sizes follow from the compiler's
# tables, not from measurements: `icm-fast tune-kernels` times others on a device, and
# tuned_tiles.py keeps them. Five stages make two buffers of keys and values: the slot of a block is
# loaded first, and Triton divides the stages between the two loads. Three or four leave one buffer,
# which hides no latency.
TILES: dict[tuple[int, int, int], tuple[Tile, Tile]] = {
    (80, 2, 32): (Tile(64, 64, 4, 5), Tile(16, 64, 4, 5)),
    (80, 2, 64): (Tile(64, 64, 4, 5), Tile(16, 64, 4, 5)),
    (80, 2, 128): (Tile(64, 32, 4, 5), Tile(16, 32, 4, 5)),
    (80, 2, 256): (Tile(64, 16, 8, 5), Tile(16, 16, 4, 5)),
    (80, 4, 32): (Tile(32, 32, 4, 5), Tile(32, 32, 4, 5)),
    (80, 4, 64): (Tile(16, 32, 4, 5), Tile(16, 32, 4, 5)),
    (80, 4, 128): (Tile(32, 16, 4, 5), Tile(32, 16, 4, 5)),
    (80, 4, 256): (Tile(16, 16, 16, 5), Tile(16, 16, 16, 5)),
    (90, 2, 32): (Tile(64, 64, 4, 5), Tile(16, 64, 4, 5)),
    (90, 2, 64): (Tile(64, 64, 4, 5), Tile(16, 64, 4, 5)),
    (90, 2, 128): (Tile(64, 32, 4, 5), Tile(16, 32, 4, 5)),
    (90, 2, 256): (Tile(64, 32, 8, 5), Tile(16, 32, 4, 5)),
    (90, 4, 32): (Tile(32, 32, 4, 5), Tile(16, 32, 4, 5)),
    (90, 4, 64): (Tile(32, 32, 8, 5), Tile(16, 32, 8, 5)),
    (90, 4, 128): (Tile(16, 16, 4, 5), Tile(16, 16, 4, 5)),
    (90, 4, 256): (Tile(16, 16, 4, 5), Tile(16, 16, 4, 5)),
}


def target_of(capability: tuple[int, int]) -> int:
    """The target whose tiles a device takes.

    Hopper and data-center Blackwell have 227 KB of shared memory; consumer devices of every
    generation since Ampere have 99 KB, and take the tiles of sm_80.
    """
    return 90 if capability[0] in (9, 10, 11) else 80


def padded(width: int) -> int:
    """Smallest power of two that holds a head, and at least the minimum of the tensor cores."""
    return max(16, 1 << (width - 1).bit_length())


def shares_of(pair: TilePair) -> tuple[TileShare, ...]:
    """Which tile a segment takes: by its own length alone, whatever else is in the batch."""
    if pair.long == pair.short:
        return (TileShare(pair.long, EVERY_LENGTH),)
    end = SHORT_ROWS + 1
    return (
        TileShare(pair.long, range(end, EVERY_LENGTH.stop)),
        TileShare(pair.short, range(EVERY_LENGTH.start, end)),
    )


def default_tiles(head_dim: int, dtype: torch.dtype, target: int) -> TilePair:
    """Both tiles of a head width.

    Args:
        head_dim: Width of a query or value row, the greater of the two.
        dtype: Of query, keys and values.
        target: See :func:`target_of`.

    Raises:
        ValueError: If a head is wider than 256.
    """
    width = max(HEAD_DIMS[0], padded(head_dim))
    if width > HEAD_DIMS[-1]:
        raise ValueError(f"head width {head_dim} > {HEAD_DIMS[-1]}; use sdpa")
    return TilePair(*TILES[target, dtype.itemsize, width])
