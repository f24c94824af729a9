"""Batches in parts, where a device has no memory for a whole one."""

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
        self._most_tokens = sys.maxsize

    def run(
        self,
        batch: PackedBatch,
        run_whole: Callable[[PackedBatch], torch.Tensor],
        store: KVStore,
    ) -> torch.Tensor:
        """Forward one batch by ``run_whole``.

        Where the device has no memory for it, it goes in two, and so do later ones of that size.

        Raises:
            InputError: There is no memory for a single segment beside what ``store`` holds.
        """
        n_tokens = len(batch.token_ids)
        is_single = len(batch.n_tokens) == 1
        if n_tokens <= self._most_tokens or is_single:
            try:
                return run_whole(batch)
            except torch.OutOfMemoryError as error:
                if is_single:
                    raise InputError(_no_memory(n_tokens, store)) from error
            # Behind the handler: the error holds on to the tensors of the pass that failed.
            self._go_on_with(n_tokens // 2, n_tokens)
        # Parents ran in earlier batches, so that segments of one batch need nothing of each other.
        return torch.cat([self.run(half, run_whole, store) for half in halves(batch)])

    def _go_on_with(self, most_tokens: int, n_tokens: int) -> None:
        if self._device.type == "cuda":
            # The allocator keeps what is free in pieces of the failed sizes.
            torch.cuda.empty_cache()
        self._most_tokens = most_tokens
        warnings.warn(
            f"no memory for a batch of {n_tokens} tokens; going on with batches of at most "
            f"{most_tokens}. Pass batch_tokens={most_tokens} to begin so",
            RuntimeWarning,
            stacklevel=4,
        )


class PooledForward:
    """What the ways of forwarding on torch's devices share: a pool, and smaller batches."""

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
            InputError: The device has no memory for a single segment.
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
