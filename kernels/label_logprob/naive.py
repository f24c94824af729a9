"""Label log-probabilities, slow and obvious: the definition."""

from __future__ import annotations

import torch

from icm_fast.kernels.label_logprob.head import Head


def label_logprob(
    hidden: torch.Tensor, head: Head, tokens: torch.Tensor, *, normalize: bool
) -> torch.Tensor:
    """Logits or log-probabilities of a few tokens; float32 throughout.

    Args:
        hidden: ``[rows, hidden_size]`` last hidden states.
        head: The model's head.
        tokens: ``[n_tokens]`` int64 ids.
        normalize: Subtract the log-sum-exp over the whole vocabulary.

    Returns:
        ``[rows, n_tokens]`` float32, natural log.
    """
    states = hidden.float()
    if head.norm_weight is not None:
        mean_square = states.square().mean(-1, keepdim=True)
        states = states * torch.rsqrt(mean_square + head.norm_eps) * head.norm_weight.float()
    logits = states @ head.weight.float().T
    if head.bias is not None:
        logits = logits + head.bias.float()
    logits = logits * head.scale
    if head.softcap:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    selected = logits[:, tokens]
    return selected - logits.logsumexp(-1, keepdim=True) if normalize else selected
