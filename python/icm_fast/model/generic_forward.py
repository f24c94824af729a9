"""Packed batches through a transformers model of any family, on any device."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import torch

from icm_fast.errors import InputError
from icm_fast.kernels.tree_attention import AttentionWork, SegmentWork
from icm_fast.model.attention import TreeBatch, tree_attention_enabled
from icm_fast.model.kv_store import KVStore
from icm_fast.model.load import LoadedModel
from icm_fast.model.packed import IntArray64, PackedBatch, halves


class GenericForward:
    """The model's own layers, with our attention in transformers' interface.

    Attributes:
        windows: Sliding window of each attention layer that ran, None for full attention.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._device = loaded.device
        self._store = KVStore(0)
        self._most_tokens = sys.maxsize
        self.windows: dict[int, int | None] = {}

    def open(self, pool_tokens: int, longest_context: int, *, keep: bool = False) -> None:
        """Make room for a plan."""
        if not (keep and self._store.pool_tokens == pool_tokens):
            self._store = KVStore(pool_tokens)

    def pool_bytes(self) -> int:
        """Bytes of keys and values held."""
        return self._store.n_bytes()

    def run(self, batch: PackedBatch) -> torch.Tensor:
        """Forward one batch; see :class:`icm_fast.model.packed.Forward`.

        Where a device has no memory for a batch, it goes in two, and so do later ones of that size.

        Raises:
            InputError: There is no memory for a single segment.
        """
        n_tokens = len(batch.token_ids)
        if n_tokens <= self._most_tokens or len(batch.n_tokens) == 1:
            try:
                return self._run(batch)
            except torch.OutOfMemoryError as error:
                if len(batch.n_tokens) == 1:
                    raise InputError(_no_memory(n_tokens, self._store)) from error
                # The allocator keeps what is free in pieces of the failed sizes.
                self._free_cache()
                self._most_tokens = n_tokens // 2
                warnings.warn(
                    f"no memory for a batch of {n_tokens} tokens; going on with batches of at most "
                    f"{self._most_tokens}. Pass batch_tokens={self._most_tokens} to begin so",
                    RuntimeWarning,
                    stacklevel=2,
                )
        # Parents ran in earlier batches, so that segments of one batch need nothing of each other.
        return torch.cat([self.run(half) for half in halves(batch)])

    def _free_cache(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(self, batch: PackedBatch) -> torch.Tensor:
        ends = np.cumsum(batch.n_tokens)
        works, positions, slots = [], [], []
        for k, (length, start, own) in enumerate(
            zip(batch.n_tokens, batch.start, batch.own, strict=True)
        ):
            end = int(ends[k])
            ranges = batch.ranges[k]
            works.append(SegmentWork(end - int(length), end, ranges, int(own), int(start)))
            first = start if batch.rotary_start is None else batch.rotary_start[k]
            positions.append(np.arange(first, first + length))
            slots.append(np.arange(own, own + length))
        tree_batch = TreeBatch(
            self._store,
            AttentionWork(tuple(works), len(batch.token_ids)),
            self._tensor(np.concatenate(slots)),
        )
        with tree_attention_enabled(self._model):
            output = self._model.base_model(
                input_ids=self._tensor(batch.token_ids)[None],
                position_ids=self._tensor(np.concatenate(positions))[None],
                use_cache=False,
                tree_batch=tree_batch,
            )
        self.windows.update(tree_batch.windows)
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden[self._tensor(ends[batch.wanted] - 1).to(hidden.device)]

    def _tensor(self, values: IntArray64) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self._device)


def _no_memory(n_tokens: int, store: KVStore) -> str:
    return (
        f"the device has no memory for a segment of {n_tokens} tokens beside {store.n_bytes():,} "
        f"bytes of keys and values (kv_budget_tokens={store.pool_tokens}); pass a smaller "
        "kv_budget_tokens, shorter examples, another dtype, or --set device=cpu"
    )
