"""Packed batches through a transformers model of any family, on any device."""

from __future__ import annotations

import numpy as np
import torch

from icm_fast.model.forward.attention import TreeBatch, tree_attention_enabled
from icm_fast.model.forward.batch import IntArray64, PackedBatch, rows_of
from icm_fast.model.forward.halving import PooledForward
from icm_fast.model.loaded import LoadedModel
from icm_fast.model.sharing import turn_of


class GenericForward(PooledForward):
    """The model's own layers, with tree attention plugged into transformers.

    Attributes:
        windows: Sliding window of each attention layer that ran; None for full attention.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded.device)
        self._model = loaded.model
        self._device = loaded.device
        self.windows: dict[int, int | None] = {}

    def _run(self, batch: PackedBatch) -> torch.Tensor:
        rows = rows_of(batch)
        tree_batch = TreeBatch(self._store, rows.work, self._tensor(rows.slots))
        with turn_of(self._model), tree_attention_enabled(self._model):
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
