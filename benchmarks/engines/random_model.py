"""A model of a common shape with random weights: the speed depends only on the shape."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from icm_fast.assets.cache import cache_dir
from icm_fast.assets.locate import EMBEDDED_MODELS, embedded_model
from icm_fast.files import writing

QWEN_SHAPE = "qwen-shape"
"""Model name for random weights in the shape of Qwen2.5-1.5B."""

_SEED = 0
_QWEN_SIZES: dict[str, Any] = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    # With 0.05 its bfloat16 answers fail; with 0.02 contexts score nearly alike ("weak check").
    "initializer_range": 0.02,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}


def model_folder(model: str) -> str:
    """The folder of a model, converted or created if needed; hub ids are returned unchanged.

    Raises:
        InputError: An embedded model is not installed, or a file can't be read or written.
    """
    from icm_fast.model.gguf import converted_folder

    if model == QWEN_SHAPE:
        return str(random_qwen(converted_folder(embedded_model("smollm2"))))
    if model in EMBEDDED_MODELS:
        return str(converted_folder(embedded_model(model)))
    if model.endswith(".gguf"):
        return str(converted_folder(Path(model).expanduser()))
    return model


def random_qwen(tokenizer_folder: Path, **changes: Any) -> Path:
    """Folder of a random bfloat16 Qwen2 model with another model's tokenizer; created once.

    Args:
        tokenizer_folder: Folder of the tokenizer; its size, rounded up to a multiple of 64, is
            the size of the vocabulary.
        **changes: Changed settings of the configuration, for smaller models.

    Raises:
        InputError: The cache folder can't be written.
    """
    sizes = _QWEN_SIZES | changes
    digits = f"{sizes['num_hidden_layers']}x{sizes['hidden_size']}x{sizes['intermediate_size']}"
    target = cache_dir() / "bench" / f"{QWEN_SHAPE}-{digits}"
    if (target / "config.json").is_file():
        return target
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
        try:
            _make(tokenizer_folder, sizes, scratch)
            os.rename(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def _make(tokenizer_folder: Path, sizes: dict[str, Any], folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
    config = Qwen2Config(vocab_size=-(-len(tokenizer) // 64) * 64, **sizes)
    generator_state = torch.get_rng_state()
    torch.manual_seed(_SEED)
    try:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    finally:
        torch.set_rng_state(generator_state)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
