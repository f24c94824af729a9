"""Peer ``transformers-naive``: whole prompts in batches of the fastest of several sizes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from .protocol import Job, Logits, Prompts, main
from .transformers_model import PACKAGES, label_logits, load

BATCH_SIZES = (1, 2, 4, 8)
PROBE_TOKENS = 512


class NaiveSession:
    """Left-padded batches of prompts of similar length, no cache."""

    reuses_prefix = False
    divisible = True
    packages: tuple[str, ...] = PACKAGES

    def __init__(self, job: Job) -> None:
        self._model: Any = load(job)
        self._label_ids = job.label_ids
        self.tokens_forwarded: int | None = 0
        self.details: dict[str, Any] = {}
        self._batch_size = int(job.options.get("batch_size", 0)) or self._best_size(job.prompts)
        self.details["batch_size"] = self._batch_size

    def reset(self) -> None:
        """Nothing is cached."""
        self.tokens_forwarded = 0

    def label_logits(self, prompts: Prompts) -> Logits:
        """Logits of the labels after each prompt, ``[n_prompts, n_labels]``."""
        # Prompts of similar length share a batch, so that little padding is forwarded.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        logits: Logits = [[] for _ in prompts]
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            for i, row in zip(rows, self._forward([prompts[i] for i in rows]), strict=True):
                logits[i] = row
        return logits

    def _forward(self, prompts: Prompts) -> Logits:
        import torch

        longest = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        inputs = {"input_ids": ids}
        # No mask without padding: plain causal attention is faster.
        if not bool(mask.all()):
            inputs |= {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        self.tokens_forwarded = (self.tokens_forwarded or 0) + ids.numel()
        return label_logits(self._model, self._label_ids, **inputs, use_cache=False)

    def _best_size(self, prompts: Prompts) -> int:
        """The batch size with the most tokens per second on shortened prompts."""
        rates = {}
        for size in BATCH_SIZES:
            if size <= len(prompts):
                rates[size] = self._rate([prompt[:PROBE_TOKENS] for prompt in prompts[:size]])
        self.details["probed_tokens_per_second"] = rates
        return max(rates, key=rates.__getitem__)

    def _rate(self, prompts: Sequence[Sequence[int]]) -> float:
        self._forward(prompts)
        started = time.perf_counter()
        self._forward(prompts)
        return sum(map(len, prompts)) / (time.perf_counter() - started)


if __name__ == "__main__":
    main(NaiveSession)
