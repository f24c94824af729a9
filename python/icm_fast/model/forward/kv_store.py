"""Keys and values of all live segments: one pool of token slots per layer."""

from __future__ import annotations

import torch


class KVStore:
    """Pools ``[n_kv_heads, pool_tokens, head_dim]``, one pair per layer, created on first write.

    The plan assigns the slots (``TreePlan.kv_offset``), so the store allocates nothing.
    """

    def __init__(self, pool_tokens: int) -> None:
        self.pool_tokens = pool_tokens
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def write(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scatter packed rows into the layer's pools and return the pools.

        Args:
            layer: Layer number.
            key: ``[n_kv_heads, n_tokens, head_dim]``.
            value: ``[n_kv_heads, n_tokens, value_dim]``.
            slots: ``[n_tokens]`` int64, the pool slot of each row.
        """
        keys, values = self.pools(layer, key, value)
        slots = slots.to(key.device)  # layers may be on several devices
        keys.index_copy_(1, slots, key)
        values.index_copy_(1, slots, value)
        return keys, values

    def pools(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's pools, for the caller to write to.

        Args:
            layer: Layer number.
            key: ``[n_kv_heads, n_tokens, head_dim]``; its dtype and device are those of the pool.
            value: ``[n_kv_heads, n_tokens, value_dim]``, likewise.
        """
        if layer not in self._layers:
            self._layers[layer] = (self._pool(key), self._pool(value))
        return self._layers[layer]

    def _pool(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_empty(like.shape[0], self.pool_tokens, like.shape[-1])

    def n_bytes(self) -> int:
        """Bytes held by all pools."""
        return sum(
            pool.numel() * pool.element_size() for pools in self._layers.values() for pool in pools
        )

    def check_integrity(self) -> None:
        """Assert that all layers have pools of the same capacity."""
        for keys, values in self._layers.values():
            assert keys.shape[1] == values.shape[1] == self.pool_tokens
            assert keys.shape[0] == values.shape[0]
