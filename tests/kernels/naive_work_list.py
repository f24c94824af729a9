"""The launch plan in numpy, with which the native one is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from icm_fast.kernels.tree_attention import AttentionWork
from icm_fast.kernels.tree_attention.work_list import LaunchPlan, PlanSettings

IntArray = NDArray[np.int64]

PROGRAMS_PER_SM = 2
MIN_SPLIT_BLOCKS = 4
"""A part shorter than this costs more to merge than it saves."""


def make_plan(work: AttentionWork, settings: PlanSettings) -> LaunchPlan:
    """Build the tables; see ``work_list.make_plan``."""
    segments = _Segments.of(work).served(settings)
    blocks = _Blocks.of(segments, settings)
    items = _split(_tiles(segments, blocks, settings), settings)
    order = np.argsort(items[:, 4] - items[:, 6], kind="stable")  # longest first: none ends late
    return LaunchPlan(
        items=_table(items[order], settings.device),
        blocks=_table(blocks.table, settings.device),
        merges=_table(_merges(items), settings.device),
        n_partials=int((items[:, 7] >= 0).sum()),
        slot_end=int((segments.piece_begin + segments.piece_length).max(initial=0)),
    )


def _table(values: IntArray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int32)).to(device)


@dataclass(frozen=True, slots=True)
class _Segments:
    """Arrays per segment, and per piece: a run of adjacent slots, in context order."""

    begin: IntArray
    length: IntArray
    start: IntArray
    piece_segment: IntArray
    piece_begin: IntArray
    piece_length: IntArray
    piece_position: IntArray

    @classmethod
    def of(cls, work: AttentionWork) -> _Segments:
        numbers = [(s.begin, s.end - s.begin, s.own, s.start) for s in work.segments]
        begin, length, own, start = _columns(numbers, 4)
        _check_rows(begin, length, work.n_tokens)
        # An own range behind each segment's ancestors.
        ranges = [
            (k, a, b)
            for k, s in enumerate(work.segments)
            for a, b in (*s.ranges, (s.own, s.own + s.end - s.begin))
        ]
        owner, first, last = _columns(ranges, 3)
        if (first < 0).any() or (last < first).any():
            raise ValueError("a segment's range of slots is backwards or starts below 0")
        piece_length = last - first
        before = np.cumsum(piece_length) - piece_length
        position = before - before[np.searchsorted(owner, owner)]
        is_own = np.searchsorted(owner, np.arange(len(own)), side="right") - 1
        if (position[is_own] != start).any():
            raise ValueError("the ranges before a segment do not add up to its position")
        return cls(begin, length, start, *_pieces(owner, first, piece_length, position, is_own))

    def served(self, settings: PlanSettings) -> _Segments:
        """Segments of the lengths that the launch covers."""
        rows = self.length * settings.group
        kept = (rows >= settings.lengths.start) & (rows < settings.lengths.stop)
        pieces = kept[self.piece_segment]
        return _Segments(
            self.begin[kept],
            self.length[kept],
            self.start[kept],
            (np.cumsum(kept) - 1)[self.piece_segment[pieces]],
            self.piece_begin[pieces],
            self.piece_length[pieces],
            self.piece_position[pieces],
        )


def _pieces(
    owner: IntArray, first: IntArray, length: IntArray, position: IntArray, is_own: IntArray
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Drop empty ranges and merge adjacent ancestors, so that fewer blocks end early."""
    own = np.zeros(len(owner), bool)
    own[is_own] = True
    kept = length > 0
    owner, first, length, position, own = (a[kept] for a in (owner, first, length, position, own))
    apart = np.ones(len(owner), bool)
    apart[1:] = (owner[1:] != owner[:-1]) | (first[1:] != (first + length)[:-1]) | own[1:]
    heads = np.flatnonzero(apart)
    total = np.add.reduceat(length, heads) if len(heads) else length
    return owner[heads], first[heads], total, position[heads]


def _columns(rows: Sequence[tuple[int, ...]], width: int) -> IntArray:
    return np.array(rows, np.int64).reshape(-1, width).T


def _check_rows(begin: IntArray, length: IntArray, n_tokens: int) -> None:
    ends = np.cumsum(length)
    covered = int(ends[-1]) if len(ends) else 0
    if (length < 0).any() or (begin != ends - length).any() or covered != n_tokens:
        raise ValueError(f"the segments' rows must follow each other and cover {n_tokens} rows")


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The table of blocks, each segment's together.

    Attributes:
        table: ``[n_blocks, BLOCK_FIELDS]``.
        owner: ``[n_blocks]`` segment of each block, ascending.
        offset: ``[n_segments + 1]`` first block of each segment.
        whole: ``[n_segments]`` how many of its first blocks every row sees in full.
    """

    table: IntArray
    owner: IntArray
    offset: IntArray
    whole: IntArray

    @classmethod
    def of(cls, segments: _Segments, settings: PlanSettings) -> _Blocks:
        size = settings.block_n
        piece, k = _repeat(-(-segments.piece_length // size))
        owner = segments.piece_segment[piece]
        done = k * size
        count = np.minimum(size, segments.piece_length[piece] - done)
        position = segments.piece_position[piece] + done
        whole = (count == size) & (position + count <= segments.start[owner])
        if settings.sliding_window:
            # A window is a run of blocks only in the order of the context.
            whole[:] = False
        order = np.lexsort((~whole, owner))
        n_segments = len(segments.begin)
        table = np.stack(
            [segments.piece_begin[piece] + done, count, position, np.zeros_like(count)], axis=1
        )
        return cls(
            table=table[order],
            owner=owner,
            offset=np.searchsorted(owner, np.arange(n_segments + 1)),
            whole=np.bincount(owner[whole], minlength=n_segments),
        )


def _repeat(counts: IntArray) -> tuple[IntArray, IntArray]:
    """``counts[i]`` times i, and the number of each among those.

    For 2, 0, 1 that is (0, 0, 2) and (0, 1, 0).
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]


def _tiles(segments: _Segments, blocks: _Blocks, settings: PlanSettings) -> IntArray:
    """Items before any split: ``[n_tiles, ITEM_FIELDS]``."""
    rows = segments.length * settings.group
    owner, k = _repeat(-(-rows // settings.block_m))
    first_row = k * settings.block_m
    last_row = np.minimum(first_row + settings.block_m, rows[owner]) - 1
    first_token, last_token = first_row // settings.group, last_row // settings.group
    # Own blocks come last and in order, so that those in the future of all rows can be cut off.
    n_own = -(-segments.length // settings.block_n)
    future = n_own[owner] - last_token // settings.block_n - 1
    low, high = blocks.offset[owner], blocks.offset[owner + 1] - future
    whole = low + blocks.whole[owner]
    if settings.sliding_window:
        oldest = segments.start[owner] + first_token - settings.sliding_window + 1
        low = whole = _blocks_until(blocks, owner, np.maximum(oldest, 0))
    columns = [
        segments.begin[owner],
        first_row,
        rows[owner],
        segments.start[owner],
        low,
        whole,
        high,
        np.full_like(low, -1),
    ]
    return np.stack(columns, axis=1)


def _blocks_until(blocks: _Blocks, owner: IntArray, position: IntArray) -> IntArray:
    """First block of segments ``owner`` that ends after ``position``; blocks in context order."""
    ends = blocks.table[:, 2] + blocks.table[:, 1]
    beyond = int(ends.max(initial=0)) + 1
    return np.searchsorted(
        blocks.owner * beyond + ends, owner * beyond + np.minimum(position, beyond - 1), "right"
    )


def _split(tiles: IntArray, settings: PlanSettings) -> IntArray:
    """Cut the blocks of long tiles into parts of nearly equal length."""
    n_blocks = tiles[:, 6] - tiles[:, 4]
    if not settings.n_sms:
        return tiles
    programs = settings.n_sms * PROGRAMS_PER_SM
    share = max(MIN_SPLIT_BLOCKS, -(-int(n_blocks.sum()) * settings.kv_heads // programs))
    tile, part = _repeat(np.maximum(1, -(-n_blocks // share)))
    n_parts = np.bincount(tile, minlength=len(tiles))[tile]
    items = tiles[tile]
    items[:, 4] = tiles[tile, 4] + n_blocks[tile] * part // n_parts
    items[:, 6] = tiles[tile, 4] + n_blocks[tile] * (part + 1) // n_parts
    items[:, 5] = np.clip(items[:, 5], items[:, 4], items[:, 6])
    divided = n_parts > 1
    items[divided, 7] = np.arange(int(divided.sum()))
    return items


def _merges(items: IntArray) -> IntArray:
    """One row per split tile; its parts are adjacent in ``items``."""
    parts = items[items[:, 7] >= 0]
    _, first, count = np.unique(parts[:, :2], axis=0, return_index=True, return_counts=True)
    return np.concatenate([parts[first, :4], parts[first, 7:8], count[:, None]], axis=1)
