"""How a byte-level tokenizer of a GGUF file splits texts before it merges bytes.

A file names the rule (``tokenizer.ggml.pre``) and does not hold it. transformers knows some names
and splits as GPT-2 did under all others.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import decoders, pre_tokenizers
from transformers import PreTrainedTokenizerBase

_DIGITS = (
    "smollm",
    "starcoder",
    "refact",
    "command-r",
    "codeshell",
    "exaone",
    "minerva-7b",
)
"""Rules that make every digit a piece, and split the rest as GPT-2 did."""

_GPT2 = ("", "default", "gpt-2", "gpt2", "mpt", "olmo", "jais", "phi-2", "roberta-bpe")
"""Rules that are GPT-2's; files without a name are older than the names."""


def set_pre_tokenizer(gguf: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """Make ``tokenizer`` split texts by the rule that the file names.

    Returns:
        An empty text, or a warning that the rule is not known.
    """
    kind, rule = _names(gguf)
    if kind == "gpt2":  # bytes, whatever the rule; some versions drop the first blank
        tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    if kind != "gpt2" or rule in _GPT2 or rule in _known_to_transformers():
        return ""
    if rule in _DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        return ""
    return (
        f"its tokenizer splits texts by the rule {rule[:40]!r}, which is not known here; texts may "
        "get other tokens than the model was trained on, so use the model in safetensors"
    )


def _names(gguf: Path) -> tuple[str, str]:
    """Kind of the tokenizer and name of its rule, both empty where the file names none."""
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields
    kind, rule = (
        fields[key].contents() if key in fields else ""
        for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre")
    )
    return str(kind), str(rule)


def _known_to_transformers() -> frozenset[str]:
    try:
        from transformers.integrations.gguf import gguf_tokenizer_mapping as mapping
    except ImportError:
        return frozenset()
    return frozenset(getattr(mapping, "GGUF_PRE_TOKENIZER_SPLITS", ()))
