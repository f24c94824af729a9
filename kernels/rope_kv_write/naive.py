"""Rotation and pool write, slow and obvious: the definition."""

from __future__ import annotations

import torch


def rope_kv_write(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    key_pool: torch.Tensor,
    value_pool: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """Rotate queries and keys, write keys and values into the pools.

    Half-split rotation, as transformers' llama does it: feature k turns together with feature
    ``k + rotary_dim / 2``; features from ``rotary_dim`` on stay (partial rotary positions).

    Args:
        query: ``[n_heads, n_tokens, head_dim]`` before rotation.
        key: ``[n_kv_heads, n_tokens, head_dim]`` before rotation.
        value: ``[n_kv_heads, n_tokens, value_dim]``.
        cos: ``[n_tokens, rotary_dim]`` as transformers makes it: both halves are equal.
        sin: ``[n_tokens, rotary_dim]``.
        key_pool: ``[n_kv_heads, pool_tokens, head_dim]``, written at ``slots``.
        value_pool: ``[n_kv_heads, pool_tokens, value_dim]``, written at ``slots``.
        slots: ``[n_tokens]`` int64, distinct.

    Returns:
        The rotated queries, ``[n_heads, n_tokens, head_dim]``; products in float32.
    """
    key_pool.index_copy_(1, slots, _rotate(key, cos, sin))
    value_pool.index_copy_(1, slots, value)
    return _rotate(query, cos, sin)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    width = cos.shape[-1]
    turned = x[..., :width].float()
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos.float() + torch.cat([-second, first], dim=-1) * sin.float()
    return torch.cat([turned.to(x.dtype), x[..., width:]], dim=-1)
