"""Widths of heads and of what is held per token, from a model's configuration."""

from __future__ import annotations

from typing import Any


def head_dim(config: Any) -> int:
    """Width of one head."""
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)


def kv_heads(config: Any) -> int:
    """Key-value heads of a layer; as many as query heads where they are not named."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def kv_numbers_per_token(config: Any) -> int:
    """Numbers of all keys and values that one token leaves in all layers."""
    return 2 * int(config.num_hidden_layers) * kv_heads(config) * head_dim(config)


def fitting_kv_tokens(config: Any, itemsize: int, device_bytes: int, weight_bytes: int) -> int:
    """Tokens whose keys and values leave as much of a device's memory for everything else.

    From the device's whole memory, not from what is free at the moment: how a plan is cut into
    batches must not change between a search and its resumption, for bits can depend on it there.

    Args:
        config: The decoder's configuration.
        itemsize: Bytes of a number.
        device_bytes: Memory of all devices that hold the model.
        weight_bytes: What its weights take.

    Returns:
        At least 1.
    """
    room = max(0, device_bytes * 9 // 10 - weight_bytes)
    return max(1, room // 2 // (kv_numbers_per_token(config) * itemsize))
