"""The part of a transformers configuration that every decoder has."""

from __future__ import annotations

from typing import Protocol, Self


class DecoderConfig(Protocol):
    """What we read of every decoder; fields that only some families have are read with a default.

    ``get_text_config`` returns it from the configuration of a model with several parts.
    """

    @property
    def model_type(self) -> str:
        """Name of the family."""

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers."""

    @property
    def num_attention_heads(self) -> int:
        """Query heads of a layer."""

    def get_text_config(self, decoder: bool = ...) -> Self:
        """The configuration of the text decoder alone."""
