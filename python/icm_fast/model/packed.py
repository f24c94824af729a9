"""One packed batch of a plan: what every way of forwarding it receives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from icm_fast.kernels.tree_attention import AttentionWork, SegmentWork

IntArray64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Segments side by side, in row order.

    Attributes:
        token_ids: ``[n_tokens]`` int64, the segments' tokens one after the other.
        n_tokens: ``[n_segments]`` int64, tokens of each segment.
        start: ``[n_segments]`` int64, tokens before each segment in its context.
        own: ``[n_segments]`` int64, first pool slot of each segment's own keys and values.
        ranges: Per segment the pool ranges ``(begin, end)`` of its ancestors, root first; their
            lengths sum to ``start``.
        wanted: ``[n_segments]`` bool, segments whose last hidden state is returned.
        rotary_start: ``[n_segments]`` int64, position of each segment's first token as far as
            rotary embeddings go; ``start`` by default.
    """

    token_ids: IntArray64
    n_tokens: IntArray64
    start: IntArray64
    own: IntArray64
    ranges: tuple[tuple[tuple[int, int], ...], ...]
    wanted: npt.NDArray[np.bool_]
    rotary_start: IntArray64 | None = None


@dataclass(frozen=True, slots=True)
class PackedRows:
    """What the layers of a model need to know of a batch.

    Attributes:
        work: The segments, for attention.
        positions: ``[n_tokens]`` int64, position of each row as far as rotary embeddings go.
        slots: ``[n_tokens]`` int64, pool slot of each row.
        wanted: ``[n_wanted]`` int64, rows whose state is returned.
    """

    work: AttentionWork
    positions: IntArray64
    slots: IntArray64
    wanted: IntArray64


def rows_of(batch: PackedBatch) -> PackedRows:
    """Where each row of a batch stands, and what it attends to."""
    ends = np.cumsum(batch.n_tokens)
    first = batch.start if batch.rotary_start is None else batch.rotary_start
    works, positions, slots = [], [], []
    for k, (length, start, own) in enumerate(
        zip(batch.n_tokens, batch.start, batch.own, strict=True)
    ):
        end = int(ends[k])
        works.append(SegmentWork(end - int(length), end, batch.ranges[k], int(own), int(start)))
        positions.append(np.arange(first[k], first[k] + length))
        slots.append(np.arange(own, own + length))
    return PackedRows(
        AttentionWork(tuple(works), len(batch.token_ids)),
        np.concatenate(positions).astype(np.int64),
        np.concatenate(slots).astype(np.int64),
        (ends[batch.wanted] - 1).astype(np.int64),
    )


def halves(batch: PackedBatch) -> tuple[PackedBatch, PackedBatch]:
    """Two batches of about as many tokens each, between two segments; there must be two."""
    ends = np.cumsum(batch.n_tokens)
    middle = int(np.searchsorted(ends, ends[-1] / 2)) + 1
    cut = min(middle, len(ends) - 1)
    return _part(batch, 0, cut), _part(batch, cut, len(ends))


def _part(batch: PackedBatch, first: int, last: int) -> PackedBatch:
    rows = slice(int(batch.n_tokens[:first].sum()), int(batch.n_tokens[:last].sum()))
    rotary = batch.rotary_start
    return PackedBatch(
        batch.token_ids[rows],
        batch.n_tokens[first:last],
        batch.start[first:last],
        batch.own[first:last],
        batch.ranges[first:last],
        batch.wanted[first:last],
        None if rotary is None else rotary[first:last],
    )


class Forward(Protocol):
    """Forwards packed batches over a pool of keys and values that it holds."""

    def open(self, pool_tokens: int, longest_context: int, *, keep: bool = False) -> None:
        """Make room for a plan.

        What an earlier plan left in the pool is void, unless ``keep`` is given and the pool has the
        same size as then.
        """

    def run(self, batch: PackedBatch) -> torch.Tensor:
        """Forward one batch.

        Returns:
            ``[wanted.sum(), hidden_size]``: last hidden states after the final norm.
        """

    def pool_bytes(self) -> int:
        """Bytes of keys and values held."""
