"""Packed batches through a transformers model of any family, on any device."""

from __future__ import annotations

import numpy as np
import torch

from icm_fast.model.attention import TreeBatch, tree_attention_enabled
from icm_fast.model.halving import Halving
from icm_fast.model.kv_store import KVStore
from icm_fast.model.load import LoadedModel
from icm_fast.model.packed import IntArray64, PackedBatch, rows_of


class GenericForward:
    """The model's own layers, with our attention in transformers' interface.

    Attributes:
        windows: Sliding window of each attention layer that ran, None for full attention.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._device = loaded.device
        self._store = KVStore(0)
        self._halving = Halving(loaded.device)
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

        Raises:
            InputError: The device has no memory for a single segment.
        """
        return self._halving.run(batch, self._run, self._store)

    def _run(self, batch: PackedBatch) -> torch.Tensor:
        rows = rows_of(batch)
        tree_batch = TreeBatch(self._store, rows.work, self._tensor(rows.slots))
        with tree_attention_enabled(self._model):
            output = self._model.base_model(
                input_ids=self._tensor(batch.token_ids)[None],
                position_ids=self._tensor(rows.positions)[None],
                use_cache=False,
                tree_batch=tree_batch,
            )
        self.windows.update(tree_batch.windows)
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden[self._tensor(rows.wanted).to(hidden.device)]

    def _tensor(self, values: IntArray64) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self._device)
