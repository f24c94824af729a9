"""Peer ``transformers-cache``: one cache, cut back to the prefix shared with the last prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .prefix import reusable
from .protocol import Job, Logits, Prompts, main
from .transformers_model import PACKAGES, label_logits, load


class CacheSession:
    """Prompts through one ``DynamicCache``, one after the other."""

    reuses_prefix = True
    divisible = True
    packages: tuple[str, ...] = PACKAGES

    def __init__(self, job: Job, model: Any = None) -> None:
        """Take ``model``, or load the job's."""
        self._model: Any = load(job) if model is None else model
        self._label_ids = job.label_ids
        self.details: dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        """Start with an empty cache."""
        from transformers import DynamicCache

        # Without the model's configuration: a cache that drops keys outside the sliding window
        # can't be cut back. The attention masks still apply the window.
        self._cache: Any = DynamicCache()
        self._cached: Sequence[int] = ()
        self.tokens_forwarded: int | None = 0

    def label_logits(self, prompts: Prompts) -> Logits:
        """Logits of the labels after each prompt, ``[n_prompts, n_labels]``."""
        return [self._forward(prompt) for prompt in prompts]

    def _forward(self, prompt: Sequence[int]) -> list[float]:
        import torch

        kept = reusable(self._cached, prompt)
        # transformers takes the number of tokens to remove, as a negative number.
        self._cache.crop(kept - len(self._cached))
        rows = label_logits(
            self._model,
            self._label_ids,
            input_ids=torch.tensor([prompt[kept:]]),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cached = prompt
        self.tokens_forwarded = (self.tokens_forwarded or 0) + len(prompt) - kept
        return rows[0]


if __name__ == "__main__":
    main(CacheSession)
