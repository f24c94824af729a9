"""The work of one attention launch, the same for every layer of a forward pass."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class SegmentWork:
    """One segment of the packed batch.

    Attributes:
        begin: First query row of the segment in the packed batch.
        end: One past its last row.
        ranges: Ancestors' key-value ranges ``(begin, end)`` in the pool, in context order. Their
            lengths sum to ``start``.
        own: First pool slot of the segment's own keys and values.
        start: Position of its first token, i.e. the number of tokens before it in its context.
    """

    begin: int
    end: int
    ranges: tuple[tuple[int, int], ...]
    own: int
    start: int

    def ranges_seen(self, sliding_window: int | None = None) -> list[tuple[int, int]]:
        """Pool ranges that some row of the segment sees, in context order, its own last.

        Args:
            sliding_window: A query at position p sees keys at positions > p - sliding_window.
        """
        own = (self.own, self.own + self.end - self.begin)
        hidden = max(0, self.start - sliding_window + 1) if sliding_window else 0
        kept = []
        for begin, end in self.ranges:
            cut = min(hidden, end - begin)
            hidden -= cut
            if begin + cut < end:
                kept.append((begin + cut, end))
        return [*kept, own]


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """All segments of one packed batch, in row order.

    Attributes:
        segments: The segments; rows of consecutive segments are adjacent.
        n_tokens: Rows of the packed batch.
        plans: What kernels have derived from the segments: shared by all layers of a forward pass
            and freed with the batch. Not compared.
    """

    segments: tuple[SegmentWork, ...]
    n_tokens: int
    plans: dict[Hashable, object] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )


def check_tensors(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, sinks: torch.Tensor | None
) -> None:
    """Check the arguments of an attention against each other; see ``naive.tree_attention``.

    Raises:
        ValueError: Shapes or dtypes do not match.
    """
    if keys.shape[:2] != values.shape[:2] or query.shape[2] != keys.shape[2]:
        raise ValueError(
            f"query {tuple(query.shape)}, keys {tuple(keys.shape)} and values "
            f"{tuple(values.shape)} do not match"
        )
    if query.shape[0] % keys.shape[0]:
        raise ValueError(
            f"{query.shape[0]} heads are not a multiple of {keys.shape[0]} key-value heads"
        )
    if not query.dtype == keys.dtype == values.dtype:
        raise ValueError(f"dtypes differ: {query.dtype}, {keys.dtype}, {values.dtype}")
    if sinks is not None and sinks.shape != query.shape[:1]:
        raise ValueError(f"sinks must be [{query.shape[0]}], not {tuple(sinks.shape)}")


def check_work(work: AttentionWork, n_tokens: int, pool_tokens: int) -> None:
    """Check the segments against the rows of the query and the slots of the pool.

    Raises:
        ValueError: Rows do not cover the batch, a range is reversed or outside the pool, or the
            ranges before a segment do not add up to its position.
    """
    row = 0
    for segment in work.segments:
        before = sum(end - begin for begin, end in segment.ranges)
        if before != segment.start:
            raise ValueError(
                f"ranges hold {before} tokens, but the segment starts at {segment.start}"
            )
        own = (segment.own, segment.own + segment.end - segment.begin)
        for begin, end in (*segment.ranges, own):
            if not 0 <= begin <= end <= pool_tokens:
                raise ValueError(f"({begin}, {end}) is not a range of {pool_tokens} slots")
        if segment.begin != row:
            raise ValueError(f"a segment begins at row {segment.begin}, not {row}")
        row = segment.end
    if not row == work.n_tokens == n_tokens:
        raise ValueError(
            f"segments have {row} rows, the work {work.n_tokens} and the query {n_tokens}"
        )


class TreeAttention(Protocol):
    """Signature of every implementation; see ``naive.tree_attention``."""

    def __call__(
        self,
        query: torch.Tensor,
        key_pool: torch.Tensor,
        value_pool: torch.Tensor,
        work: AttentionWork,
        *,
        scaling: float,
        sliding_window: int | None = None,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend every segment's queries over its context and itself."""
