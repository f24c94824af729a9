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
