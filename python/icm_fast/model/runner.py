"""Run the segments of a leave-one-out plan through a transformers model, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from icm_fast.kernels.tree_attention import AttentionWork, SegmentWork
from icm_fast.model.attention import TreeBatch, tree_attention_enabled
from icm_fast.model.kv_store import KVStore
from icm_fast.model.load import LoadedModel

TokenSource = Callable[[int], Sequence[int]]
"""Maps a segment number to the token ids of that segment."""


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
        """Segments in the order in which they run."""

    @property
    def pool_tokens(self) -> int:
        """Slots that the key-value pool needs."""


class ModelRunner:
    """Forwards packed segments over a key-value pool.

    Attributes:
        n_tokens_forwarded: Tokens forwarded so far; tests hold it against the plan.
        peak_kv_bytes: Largest pool so far.
        windows: Sliding window of each attention layer that ran, None for full attention.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._device = loaded.device
        self.n_tokens_forwarded = 0
        self.peak_kv_bytes = 0
        self.windows: dict[int, int | None] = {}

    def last_hidden_states(
        self, plan: SegmentPlan, tokens_of: TokenSource, wanted: npt.NDArray[np.bool_]
    ) -> torch.Tensor:
        """Run every batch of the plan.

        Args:
            plan: Segments, batches and pool slots.
            tokens_of: Token ids of a segment.
            wanted: ``[n_segments]``: segments whose last row is returned.

        Returns:
            ``[wanted.sum(), hidden_size]``, in segment order, in the model's dtype, on its device.
        """
        store = KVStore(plan.pool_tokens)
        paths = _RangePaths(plan)
        rows: dict[int, torch.Tensor] = {}
        with torch.inference_mode(), tree_attention_enabled(self._model):
            for first, last in zip(plan.batch_offsets[:-1], plan.batch_offsets[1:], strict=True):
                segments = [int(s) for s in plan.batch_segments[first:last]]
                hidden = self._forward(plan, segments, tokens_of, store, paths)
                ends = np.cumsum([int(plan.n_tokens[s]) for s in segments])
                for segment, end in zip(segments, ends, strict=True):
                    if wanted[segment]:
                        rows[segment] = hidden[end - 1].clone()
        self.peak_kv_bytes = max(self.peak_kv_bytes, store.n_bytes())
        return torch.stack([rows[int(s)] for s in np.flatnonzero(wanted)])

    def _forward(
        self,
        plan: SegmentPlan,
        segments: list[int],
        tokens_of: TokenSource,
        store: KVStore,
        paths: _RangePaths,
    ) -> torch.Tensor:
        """Forward one packed batch; returns ``[n_tokens, hidden_size]``."""
        ids: list[int] = []
        positions, slots, works = [], [], []
        for s in segments:
            tokens = tokens_of(s)
            length, start, own = len(tokens), int(plan.start[s]), int(plan.kv_offset[s])
            if length != int(plan.n_tokens[s]):
                raise AssertionError(f"segment {s}: {length} tokens, planned {plan.n_tokens[s]}")
            works.append(SegmentWork(len(ids), len(ids) + length, paths.before(s), own, start))
            ids.extend(tokens)
            positions.append(np.arange(start, start + length))
            slots.append(np.arange(own, own + length))
        batch = TreeBatch(
            store, AttentionWork(tuple(works), len(ids)), self._tensor(np.concatenate(slots))
        )
        self.n_tokens_forwarded += len(ids)
        output = self._model.base_model(
            input_ids=self._tensor(np.array(ids))[None],
            position_ids=self._tensor(np.concatenate(positions))[None],
            use_cache=False,
            tree_batch=batch,
        )
        self.windows.update(batch.windows)
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden

    def _tensor(self, values: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self._device)


class _RangePaths:
    """Pool ranges of a segment's ancestors, root first; neighbouring ranges are joined."""

    def __init__(self, plan: SegmentPlan) -> None:
        self._parent = plan.parent
        self._offset = plan.kv_offset
        self._length = plan.n_tokens
        self._known: dict[int, tuple[tuple[int, int], ...]] = {-1: ()}

    def before(self, segment: int) -> tuple[tuple[int, int], ...]:
        return self._through(int(self._parent[segment]))

    def _through(self, segment: int) -> tuple[tuple[int, int], ...]:
        if segment not in self._known:
            ranges = self._through(int(self._parent[segment]))
            begin = int(self._offset[segment])
            end = begin + int(self._length[segment])
            if ranges and ranges[-1][1] == begin:
                ranges = (*ranges[:-1], (ranges[-1][0], end))
            else:
                ranges = (*ranges, (begin, end))
            self._known[segment] = ranges
        return self._known[segment]
