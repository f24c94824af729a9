"""Tiny random models of every family, real tokenizers for them, and a small data set."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from icm_fast.model import LoadedModel, load_model
from icm_fast.types import Dataset, Example, LabelSpace

REVIEWS = (
    "a warm and funny film",
    "dull",
    "the plot goes nowhere, slowly and twice",
    "great cast",
    "I left before the end of it",
    "a small wonder",
    "loud, long and empty",
    "it made me smile",
)
SINGLE = (" positive", " negative")
MULTI = (" very good", " very bad", " so and so")
PREFIX = (" good", " good enough", " bad")  # the tokens of one begin those of another

WINDOW = 16
"""Shorter than every context of two demonstrations."""

VOCABULARY = 420
_SPECIAL = ["<pad>", "<s>", "</s>"]
_CORPUS = [
    f"Review: {review}\nSentiment:{label}\n\nReview: {review}"
    for review in REVIEWS
    for label in (*SINGLE, *MULTI, *PREFIX)
]

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    # Large weights: with the usual ones every context scores alike and no mistake would show.
    "initializer_range": 0.4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": WINDOW},
    "gemma2": {
        "sliding_window": WINDOW,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 5.0,
        "query_pre_attn_scalar": 5,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma3_text": {
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 5,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt_neox": {},
    "phi3": {},
}
UNLISTED: dict[str, dict[str, Any]] = {
    "olmo2": {},
    "starcoder2": {"sliding_window": WINDOW},
    "granite": {"logits_scaling": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2},
    "cohere": {"logit_scale": 0.3},
    "gpt2": {},
    "gpt_oss": {
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are slow on many threads; a test module enables this by importing it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_model(family: str, **changes: Any) -> Any:
    """A random float32 model of two layers, always the same."""
    settings = _SIZES | FAMILIES.get(family, {}) | UNLISTED.get(family, {}) | changes
    torch.manual_seed(20)
    config = AutoConfig.for_model(family, **settings)
    return AutoModelForCausalLM.from_config(config).eval()


@cache
def byte_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE with GPT-2's pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, pre_tokenizers.ByteLevel.alphabet())
    return _wrap(tokenizer, bos)


@cache
def metaspace_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """Like SentencePiece: the first word of a text gets a blank before it even without one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    _train(tokenizer, [])
    return _wrap(tokenizer, bos)


def _train(tokenizer: Tokenizer, alphabet: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=_SPECIAL,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)


def _wrap(tokenizer: Tokenizer, bos: bool) -> PreTrainedTokenizerFast:
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


NATIVE = tuple(family for family in FAMILIES if family != "gpt_neox")
"""Families that the native CPU decoder runs."""

WAYS = {
    **{family: (family, False) for family in FAMILIES},
    **{f"{family}, generic": (family, True) for family in NATIVE},
}
"""Every family with every forward implementation: arguments of :func:`tiny_loaded`."""


def tiny_loaded(
    family: str, generic: bool = False, *, bos: bool = False, **changes: Any
) -> LoadedModel:
    """A tiny model with the byte-level tokenizer; ``generic`` keeps it off the native decoder."""
    loaded = load_model((tiny_model(family, **changes), byte_tokenizer(bos)))
    if generic:
        loaded.cache["cpu_decoder"] = None
    return loaded


def reviews(labels: tuple[str, ...] = SINGLE, n: int = len(REVIEWS)) -> Dataset:
    """The first ``n`` reviews."""
    examples = tuple(
        Example(f"r{i}", f"Review: {text}\nSentiment:") for i, text in enumerate(REVIEWS[:n])
    )
    return Dataset(examples, LabelSpace(labels), name="reviews")


def mixed_labels(dataset: Dataset, unlabelled: tuple[int, ...] = (2, 5)) -> np.ndarray:
    """Every label in turn, with some examples left unlabelled."""
    labels = np.arange(len(dataset), dtype=np.int32) % len(dataset.label_space)
    labels[[i for i in unlabelled if i < len(dataset)]] = -1
    return labels
