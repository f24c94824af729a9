"""Peer ``llama-cpp``: one sequence in llama.cpp, cut back to the common prefix; no icm_fast."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

from .prefix import reusable
from .protocol import Job, Logits, Prompts, main

BATCH_TOKENS = 512
PROBE_TOKENS = 1024


class LlamaSession:
    """A context over a GGUF file (``job.options["gguf"]``).

    Options: ``flash_attention`` (by default the faster one is used) and ``batch_tokens``.
    """

    reuses_prefix = True
    divisible = True
    packages: tuple[str, ...] = ("llama-cpp-python",)

    def __init__(self, job: Job) -> None:
        import llama_cpp

        self._api: Any = llama_cpp
        self._job = job
        self._log = _silence(llama_cpp)
        llama_cpp.llama_backend_init()
        self._model: Any = llama_cpp.llama_model_load_from_file(
            str(job.options["gguf"]).encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {job.options['gguf']}")
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._n_vocabulary = int(llama_cpp.llama_vocab_n_tokens(vocabulary))
        self._batch_tokens = int(job.options.get("batch_tokens", BATCH_TOKENS))
        self._batch: Any = llama_cpp.llama_batch_init(self._batch_tokens, 0, 1)
        self._context: Any = None
        self._cached: Sequence[int] = ()
        self.tokens_forwarded: int | None = 0
        self.details: dict[str, Any] = {"batch_tokens": self._batch_tokens}
        self._open(self._best_flash_attention())

    def reset(self) -> None:
        """Empty the cache."""
        self._api.llama_memory_clear(self._memory, True)
        self._cached = ()
        self.tokens_forwarded = 0

    def label_logits(self, prompts: Prompts) -> Logits:
        """Logits of the labels after each prompt, ``[n_prompts, n_labels]``."""
        return [self._forward(prompt) for prompt in prompts]

    def _forward(self, prompt: Sequence[int]) -> list[float]:
        kept = reusable(self._cached, prompt)
        if not self._api.llama_memory_seq_rm(self._memory, 0, kept, -1):
            raise RuntimeError(f"llama.cpp cannot cut its cache back to {kept} tokens")
        for start in range(kept, len(prompt), self._batch_tokens):
            self._decode(prompt[start : start + self._batch_tokens], start, len(prompt))
        self._cached = prompt
        self.tokens_forwarded = (self.tokens_forwarded or 0) + len(prompt) - kept
        pointer = self._api.llama_get_logits_ith(self._context, -1)
        row = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float * self._n_vocabulary)).contents
        return [float(row[token]) for token in self._job.label_ids]

    def _decode(self, tokens: Sequence[int], start: int, end: int) -> None:
        """Forward ``tokens`` at positions from ``start``; logits for the prompt's last token."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for k, token in enumerate(tokens):
            batch.token[k] = token
            batch.pos[k] = start + k
            batch.n_seq_id[k] = 1
            batch.seq_id[k][0] = 0
            batch.logits[k] = start + k == end - 1
        status = self._api.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama.cpp failed to forward a batch (status {status})")

    def _open(self, flash_attention: bool) -> None:
        """Open a context with room for the longest prompt."""
        api = self._api
        if self._context:
            api.llama_free(self._context)
        settings = api.llama_context_default_params()
        settings.n_ctx = max(len(prompt) for prompt in self._job.prompts) + 1
        settings.n_batch = settings.n_ubatch = self._batch_tokens
        settings.n_seq_max = 1
        settings.n_threads = settings.n_threads_batch = self._job.threads
        settings.flash_attn_type = int(flash_attention)
        if self._job.dtype == "float32":  # keys and values are float16 by default
            settings.type_k = settings.type_v = api.GGML_TYPE_F32
        # Keep keys outside the sliding window: a cache that is cut back needs them again.
        settings.swa_full = True
        self._context = api.llama_init_from_model(self._model, settings)
        if not self._context:
            raise RuntimeError("llama.cpp cannot open a context; out of memory?")
        self._memory: Any = api.llama_get_memory(self._context)
        self.details["flash_attention"] = flash_attention

    def _best_flash_attention(self) -> bool:
        """The setting of the job, otherwise the faster one on the beginning of a prompt."""
        chosen = self._job.options.get("flash_attention")
        if chosen is not None:
            return bool(chosen)
        seconds = {}
        for flash_attention in (False, True):
            self._open(flash_attention)
            self._forward(self._job.prompts[0][:64])
            self.reset()
            started = time.perf_counter()
            self._forward(self._job.prompts[0][:PROBE_TOKENS])
            seconds[flash_attention] = time.perf_counter() - started
            self.reset()
        return min(seconds, key=seconds.__getitem__)


def _silence(api: Any) -> Any:
    """Drop llama.cpp's log; the callback must live as long as the library."""
    callback = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(callback, ctypes.c_void_p(0))
    return callback


if __name__ == "__main__":
    main(LlamaSession)
