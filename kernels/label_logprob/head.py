"""What turns a hidden state into logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Head:
    """A language-model head, and the last norm if the hidden states are from before it.

    Attributes:
        weight: ``[vocabulary, hidden_size]``.
        bias: ``[vocabulary]``, or None.
        scale: Factor on the logits (Cohere multiplies them, Granite divides).
        softcap: Logits become ``softcap * tanh(logit / softcap)`` after the factor (Gemma 2).
        norm_weight: ``[hidden_size]`` factors of the root-mean-square norm, or None if the states
            are already normed. Gemma's ``1 + weight`` is up to the caller.
        norm_eps: Added to the mean square.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    norm_weight: torch.Tensor | None = None
    norm_eps: float = 1e-6
