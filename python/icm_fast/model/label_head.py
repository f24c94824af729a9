"""From last hidden states to label log-probabilities, without full-vocabulary logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from icm_fast.errors import InputError
from icm_fast.kernels.label_logprob import Head, select_label_logprob
from icm_fast.plan.label_tree import LabelTree

_VOCABULARY_CHUNK = 16384
_ROW_CHUNK = 32


class LabelHead:
    """The part of the language-model head that label scores need; float32 throughout."""

    def __init__(self, model: PreTrainedModel) -> None:
        head = model.get_output_embeddings()
        weight = getattr(head, "weight", None)
        if weight is None:
            raise InputError(
                f"{type(model).__name__} has no language-model head; pass a causal language model"
            )
        scale, softcap = logit_scaling(model)
        self._head = Head(weight, getattr(head, "bias", None), scale, softcap)

    @property
    def device(self) -> torch.device:
        """Where the head's weights are."""
        return self._head.weight.device

    def logprobs(self, hidden: torch.Tensor, tokens: list[int], *, normalize: bool) -> torch.Tensor:
        """Logits of ``tokens``, minus the log-sum-exp over the vocabulary if ``normalize``.

        Uses the Triton kernel where there is one. ``[rows, hidden_size]`` to
        ``[rows, len(tokens)]`` float32; a row's result does not depend on the other rows.
        """
        kernel = select_label_logprob(hidden, self._head)
        if kernel is not None:
            index = torch.tensor(tokens, device=hidden.device)
            return kernel(hidden, self._head, index, normalize=normalize)
        logits = self.logits(hidden, tokens)
        return logits - self.log_normalizer(hidden)[:, None] if normalize else logits

    def logits(self, hidden: torch.Tensor, tokens: list[int]) -> torch.Tensor:
        """Logits of ``tokens``: ``[rows, hidden_size]`` -> ``[rows, len(tokens)]`` float32."""
        index = torch.tensor(tokens, device=self._head.weight.device)
        bias = None if self._head.bias is None else self._head.bias[index]
        # Row by row: the rounding of a matrix product may depend on its number of rows, and an
        # example's scores must not depend on which others are scored with it.
        weight = self._head.weight[index].float()
        products = torch.stack([(hidden.float() * row).sum(-1) for row in weight], dim=-1)
        return self._finish(products, bias)

    def own_logprobs(
        self, hidden: torch.Tensor, tokens: Sequence[int], vocabulary: Sequence[int]
    ) -> torch.Tensor:
        """Log-probability of each row's own token among those of a vocabulary, ``[rows]`` float32.

        In chunks of a fixed number of rows, so that a row's result does not depend on the others.

        Args:
            hidden: ``[rows, hidden_size]``.
            tokens: Token of each row, ``[rows]``.
            vocabulary: Distinct tokens in order; all of ``tokens`` are among them.
        """
        device = self._head.weight.device
        index = torch.tensor(vocabulary, device=device)
        weight = self._head.weight[index].float().T
        bias = None if self._head.bias is None else self._head.bias[index]
        own = torch.searchsorted(index, torch.tensor(list(tokens), device=device))
        found = []
        for states, mine in zip(hidden.split(_ROW_CHUNK), own.split(_ROW_CHUNK), strict=True):
            padding = (0, 0, 0, _ROW_CHUNK - len(states))
            rows = torch.nn.functional.pad(states.to(device).float(), padding)
            logprobs = self._finish(rows @ weight, bias).log_softmax(-1)
            found.append(logprobs[: len(mine)].gather(1, mine[:, None])[:, 0])
        return torch.cat(found) if found else hidden.new_zeros(0, dtype=torch.float32)

    def log_normalizer(self, hidden: torch.Tensor) -> torch.Tensor:
        """Log-sum-exp over the vocabulary, ``[rows]`` float32.

        In chunks of the vocabulary and of a fixed number of rows, so that a row's rounding does not
        depend on the number of rows.
        """
        chunks = [self._log_normalizer(part) for part in hidden.float().split(_ROW_CHUNK)]
        return torch.cat(chunks) if chunks else hidden.new_zeros(0, dtype=torch.float32)

    def _log_normalizer(self, hidden: torch.Tensor) -> torch.Tensor:
        n_rows = hidden.shape[0]
        hidden = torch.nn.functional.pad(hidden, (0, 0, 0, _ROW_CHUNK - n_rows))
        total = torch.full((_ROW_CHUNK,), -torch.inf, dtype=torch.float32, device=hidden.device)
        for start in range(0, self._head.weight.shape[0], _VOCABULARY_CHUNK):
            stop = start + _VOCABULARY_CHUNK
            bias = None if self._head.bias is None else self._head.bias[start:stop]
            logits = self._finish(hidden @ self._head.weight[start:stop].float().T, bias)
            total = torch.logaddexp(total, logits.logsumexp(-1))
        return total[:n_rows]

    def _finish(self, logits: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if bias is not None:
            logits = logits + bias.float()
        logits = logits * self._head.scale
        if self._head.softcap:
            logits = self._head.softcap * torch.tanh(logits / self._head.softcap)
        return logits


def logit_scaling(model: PreTrainedModel) -> tuple[float, float | None]:
    """What becomes of the products of the head: a factor, and then a soft cap or none."""
    config = model.config.get_text_config(decoder=True)
    # Cohere multiplies its logits, Granite divides them.
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
        getattr(config, "logits_scaling", None) or 1.0
    )
    softcap: float | None = getattr(config, "final_logit_softcapping", None)
    return scale, softcap


def label_logprobs(
    head: LabelHead, tree: LabelTree, hidden: torch.Tensor, *, normalize: str
) -> torch.Tensor:
    """Log-probabilities of the labels.

    Args:
        head: The model's head.
        tree: The labels' tokens.
        hidden: ``[rows, 1 + n_tails, hidden_size]``: last hidden state of each query, then of
            each inner node of the label tree after it.
        normalize: ``labels`` (log-softmax over the label space) or ``vocabulary``.

    Returns:
        ``[rows, n_labels]`` float32, natural log.
    """
    hidden = hidden.to(head.device)  # the last layer may be on another device
    # Not torch's default dtype: another thread that loads a model changes it for a while.
    shape = (hidden.shape[0], len(tree.steps))
    scores = torch.zeros(shape, dtype=torch.float32, device=hidden.device)
    for node in range(-1, len(tree.tail_tokens)):
        steps = [
            (y, token) for y, path in enumerate(tree.steps) for at, token in path if at == node
        ]
        states = hidden[:, node + 1]
        # All labels continue the query, so its normaliser cancels in a softmax over labels.
        over_vocabulary = node >= 0 or normalize == "vocabulary"
        logits = head.logprobs(states, [token for _, token in steps], normalize=over_vocabulary)
        for column, (y, _) in enumerate(steps):
            scores[:, y] += logits[:, column]
    return scores.log_softmax(-1) if normalize == "labels" else scores
