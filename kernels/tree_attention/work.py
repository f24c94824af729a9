"""What one attention launch has to do, the same for every layer of a forward pass."""

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
        start: Position of its first token, i.e. tokens before it in its context.
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
        segments: The segments; rows of consecutive ones touch.
        n_tokens: Rows of the packed batch.
        plans: What kernels made of the segments before: all layers of a forward pass share it, and
            it goes when the batch goes. No part of the work's value.
    """

    segments: tuple[SegmentWork, ...]
    n_tokens: int
    plans: dict[Hashable, object] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )


class TreeAttention(Protocol):
    """Signature of every version; see ``naive.tree_attention``."""

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
