"""Label log-probabilities from last hidden states, without full-vocabulary logits."""

from typing import Protocol

import torch

from icm_fast.kernels.label_logprob.head import Head
from icm_fast.kernels.triton_devices import DTYPES, has_triton_kernels

__all__ = ["Head", "LabelLogprob", "select_label_logprob"]


class LabelLogprob(Protocol):
    """Signature of every implementation; see ``naive.label_logprob``."""

    def __call__(
        self, hidden: torch.Tensor, head: Head, tokens: torch.Tensor, *, normalize: bool
    ) -> torch.Tensor:
        """Logits or log-probabilities of a few tokens."""


def select_label_logprob(hidden: torch.Tensor, head: Head) -> LabelLogprob | None:
    """The Triton kernel if it accepts these tensors, None if torch has to do the work."""
    weight = head.weight
    if weight.device != hidden.device or not {weight.dtype, hidden.dtype} <= DTYPES:
        return None
    if not has_triton_kernels(hidden.device):
        return None
    from icm_fast.kernels.label_logprob import triton

    return triton.label_logprob
