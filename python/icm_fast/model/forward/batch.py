"""One packed batch of a plan: the input of every forward implementation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from icm_fast.kernels.tree_attention import AttentionWork, SegmentWork

IntArray64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

NONE, LAST, ALL = 0, 1, 2
"""Which hidden states of a segment are returned; as ``Wanted`` in csrc/cpu/decoder.hpp."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Segments side by side, in row order.

    Attributes:
        token_ids: ``[n_tokens]`` int64, the segments' tokens, concatenated.
        n_tokens: ``[n_segments]`` int64, tokens of each segment.
        start: ``[n_segments]`` int64, tokens before each segment in its context.
        own: ``[n_segments]`` int64, first pool slot of each segment's own keys and values.
        ranges: Per segment the pool ranges ``(begin, end)`` of its ancestors, root first; their
            lengths sum to ``start``.
        wanted: ``[n_segments]`` uint8, the hidden states that are returned: ``NONE``, the ``LAST``
            one or ``ALL``.
    """

    token_ids: IntArray64
    n_tokens: IntArray64
    start: IntArray64
    own: IntArray64
    ranges: tuple[tuple[tuple[int, int], ...], ...]
    wanted: Bytes


@dataclass(frozen=True, slots=True)
class PackedRows:
    """What the layers of a model need to know about a batch.

    Attributes:
        work: The segments, for attention.
        positions: ``[n_tokens]`` int64, position of each row in its context.
        slots: ``[n_tokens]`` int64, pool slot of each row.
        wanted: ``[n_wanted]`` int64, rows whose states are returned.
    """

    work: AttentionWork
    positions: IntArray64
    slots: IntArray64
    wanted: IntArray64


def n_returned(wanted: np.uint8, n_tokens: np.int64) -> int:
    """How many hidden states of a segment are returned."""
    return (0, 1, int(n_tokens))[int(wanted)]


def rows_of(batch: PackedBatch) -> PackedRows:
    """The position of each row of a batch, and what it attends to."""
    ends = np.cumsum(batch.n_tokens)
    works, positions, slots, wanted = [], [], [], []
    for k, (length, start, own) in enumerate(
        zip(batch.n_tokens, batch.start, batch.own, strict=True)
    ):
        end = int(ends[k])
        wanted.append(np.arange(end - n_returned(batch.wanted[k], length), end))
        works.append(SegmentWork(end - int(length), end, batch.ranges[k], int(own), int(start)))
        positions.append(np.arange(start, start + length))
        slots.append(np.arange(own, own + length))
    return PackedRows(
        AttentionWork(tuple(works), len(batch.token_ids)),
        np.concatenate(positions).astype(np.int64),
        np.concatenate(slots).astype(np.int64),
        np.concatenate(wanted).astype(np.int64),
    )


def halves(batch: PackedBatch) -> tuple[PackedBatch, PackedBatch]:
    """Split a batch of two or more segments into two of about as many tokens each."""
    ends = np.cumsum(batch.n_tokens)
    middle = int(np.searchsorted(ends, ends[-1] / 2)) + 1
    cut = min(middle, len(ends) - 1)
    return _part(batch, 0, cut), _part(batch, cut, len(ends))


def _part(batch: PackedBatch, first: int, last: int) -> PackedBatch:
    rows = slice(int(batch.n_tokens[:first].sum()), int(batch.n_tokens[:last].sum()))
    return PackedBatch(
        batch.token_ids[rows],
        batch.n_tokens[first:last],
        batch.start[first:last],
        batch.own[first:last],
        batch.ranges[first:last],
        batch.wanted[first:last],
    )


class SegmentPlan(Protocol):
    """The part of ``_core.TreePlan`` that the runner reads."""

    @property
    def parent(self) -> npt.NDArray[np.int32]:
        """Parent segment or -1, ``[n_segments]``."""

    @property
    def n_tokens(self) -> npt.NDArray[np.int64]:
        """Tokens of each segment, ``[n_segments]``."""

    @property
    def start(self) -> npt.NDArray[np.int64]:
        """Tokens before each segment in its context, ``[n_segments]``."""

    @property
    def kv_offset(self) -> npt.NDArray[np.int64]:
        """First pool slot of each segment, ``[n_segments]``."""

    @property
    def batch_offsets(self) -> npt.NDArray[np.int64]:
        """Where each batch begins in ``batch_segments``, ``[n_batches + 1]``."""

    @property
    def batch_segments(self) -> npt.NDArray[np.int32]:
        """Segments in execution order."""

    @property
    def pool_tokens(self) -> int:
        """Size of the key-value pool, in slots."""

    @property
    def is_kept(self) -> bool:
        """Whether this plan reads what earlier plans wrote to the pool."""


class RangePaths:
    """Pool ranges ``(begin, end)`` of a plan's contexts, root first; adjacent ranges are merged."""

    def __init__(self, plan: SegmentPlan) -> None:
        self._parent = plan.parent
        self._offset = plan.kv_offset
        self._length = plan.n_tokens
        self._known: dict[int, tuple[tuple[int, int], ...]] = {-1: ()}

    def before(self, segment: int) -> tuple[tuple[int, int], ...]:
        """Ranges of a segment's context."""
        return self.through(int(self._parent[segment]))

    def through(self, segment: int) -> tuple[tuple[int, int], ...]:
        """Ranges of a segment's context and of the segment itself."""
        if segment not in self._known:
            ranges = self.through(int(self._parent[segment]))
            begin = int(self._offset[segment])
            end = begin + int(self._length[segment])
            if ranges and ranges[-1][1] == begin:
                ranges = (*ranges[:-1], (ranges[-1][0], end))
            else:
                ranges = (*ranges, (begin, end))
            self._known[segment] = ranges
        return self._known[segment]


class Forward(Protocol):
    """Forwards packed batches over its own pool of keys and values."""

    def open(self, pool_tokens: int, longest_context: int, *, keep: bool = False) -> None:
        """Make room for a plan.

        The pool's earlier content is lost, unless ``keep`` is given and the size is unchanged.

        Args:
            pool_tokens: Size of the pool, in token slots.
            longest_context: Tokens of the plan's longest context.
            keep: Keep what earlier plans wrote.
        """

    def run(self, batch: PackedBatch) -> torch.Tensor:
        """Forward one batch.

        Returns:
            ``[n_wanted, hidden_size]``: the wanted hidden states after the final norm.
        """

    def pool_bytes(self) -> int:
        """Bytes of keys and values held."""
