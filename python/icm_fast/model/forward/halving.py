"""Split batches that do not fit in a device's memory."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import torch

from icm_fast.errors import InputError
from icm_fast.model.forward.batch import PackedBatch, halves
from icm_fast.model.forward.kv_store import KVStore


class Halving:
    """Runs batches, and remembers which size was too large."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._max_tokens = sys.maxsize

    def run(
        self,
        batch: PackedBatch,
        run_whole: Callable[[PackedBatch], torch.Tensor],
        store: KVStore,
    ) -> torch.Tensor:
        """Forward one batch with ``run_whole``.

        If it does not fit in the device's memory, it is split in two, and so are later ones of that
        size.

        Raises:
            InputError: A single segment does not fit beside what ``store`` holds.
        """
        n_tokens = len(batch.token_ids)
        is_single = len(batch.n_tokens) == 1
        if n_tokens <= self._max_tokens or is_single:
            try:
                return run_whole(batch)
            except torch.OutOfMemoryError as error:
                if is_single:
                    raise InputError(_no_memory(n_tokens, store)) from error
            # After the handler: the error keeps the tensors of the failed pass alive.
            self._limit(n_tokens // 2, n_tokens)
        # Parents ran in earlier batches, so the segments of one batch are independent.
        return torch.cat([self.run(half, run_whole, store) for half in halves(batch)])

    def _limit(self, max_tokens: int, n_tokens: int) -> None:
        if self._device.type == "cuda":
            # The allocator holds its free memory in blocks of the sizes that failed.
            torch.cuda.empty_cache()
        self._max_tokens = max_tokens
        warnings.warn(
            f"no memory for a batch of {n_tokens} tokens; continuing with batches of at most "
            f"{max_tokens}. Pass batch_tokens={max_tokens} to start with that size",
            RuntimeWarning,
            stacklevel=4,
        )


class PooledForward:
    """Base of the forward implementations on torch's devices: a pool, and splitting of batches."""

    def __init__(self, device: torch.device) -> None:
        self._store = KVStore(0)
        self._halving = Halving(device)

    def open(self, pool_tokens: int, longest_context: int, *, keep: bool = False) -> None:
        """Make room for a plan."""
        if not (keep and self._store.pool_tokens == pool_tokens):
            self._store = KVStore(pool_tokens)

    def pool_bytes(self) -> int:
        """Bytes of keys and values held."""
        return self._store.n_bytes()

    def run(self, batch: PackedBatch) -> torch.Tensor:
        """Forward one batch; see :class:`icm_fast.model.forward.batch.Forward`.

        Raises:
            InputError: A single segment does not fit in the device's memory.
        """
        return self._halving.run(batch, self._run, self._store)

    def _run(self, batch: PackedBatch) -> torch.Tensor:
        """Forward one batch as a whole."""
        raise NotImplementedError


def _no_memory(n_tokens: int, store: KVStore) -> str:
    return (
        f"the device has no memory for a segment of {n_tokens} tokens beside {store.n_bytes():,} "
        f"bytes of keys and values (kv_budget_tokens={store.pool_tokens}); pass a smaller "
        "kv_budget_tokens, shorter examples, another dtype, or --set device=cpu"
    )
