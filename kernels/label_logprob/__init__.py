"""Label log-probabilities from last hidden states, without full-vocabulary logits."""

from icm_fast.kernels.label_logprob.head import Head

__all__ = ["Head"]
