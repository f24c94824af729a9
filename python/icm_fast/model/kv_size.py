"""Widths of heads and of what is held per token, from a model's configuration."""

from __future__ import annotations

from typing import Any


def head_dim(config: Any) -> int:
    """Width of one head."""
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)


def kv_numbers_per_token(config: Any) -> int:
    """Numbers of all keys and values that one token leaves in all layers."""
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    return 2 * int(config.num_hidden_layers) * heads * head_dim(config)
