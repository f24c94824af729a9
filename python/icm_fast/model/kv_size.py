"""Widths of heads, and memory of keys and values, from a model's configuration."""

from __future__ import annotations

from icm_fast.model.decoder_config import DecoderConfig


def head_dim(config: DecoderConfig) -> int:
    """Width of one head."""
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)


def kv_heads(config: DecoderConfig) -> int:
    """Key-value heads of a layer; by default as many as query heads."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def kv_numbers_per_token(config: DecoderConfig) -> int:
    """Number of elements of all keys and values of one token, over all layers."""
    return 2 * int(config.num_hidden_layers) * kv_heads(config) * head_dim(config)


def fitting_kv_tokens(
    config: DecoderConfig, itemsize: int, device_bytes: int, weight_bytes: int
) -> int:
    """Tokens whose keys and values take half of the memory that the weights leave.

    Computed from the device's total memory, not from what is free at the moment: a resumed search
    must cut its plans into the same batches, because the last bits of scores can depend on them.

    Args:
        config: The decoder's configuration.
        itemsize: Bytes of an element.
        device_bytes: Total memory of the devices that hold the model.
        weight_bytes: Memory of the model's weights.

    Returns:
        At least 1.
    """
    room = max(0, device_bytes * 9 // 10 - weight_bytes)
    return max(1, room // 2 // (kv_numbers_per_token(config) * itemsize))
