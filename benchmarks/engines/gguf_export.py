"""Write a transformers model as GGUF, so that llama.cpp runs the same weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from icm_fast.assets.cache import cache_dir
from icm_fast.errors import InputError, suggest
from icm_fast.files import writing
from icm_fast.model.kv_size import head_dim

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PretrainedConfig, PreTrainedModel

_FORMAT = 1  # increased when the conversion changes, so that old files are not reused
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "gemma3_text": "gemma3"}

FloatArray = npt.NDArray[np.float32]


def gguf_file(folder: str, dtype: str) -> Path:
    """The GGUF file of a model, written once; matrices in ``dtype``, the rest in float32.

    Peers pass token ids only, so the file has no vocabulary.

    Raises:
        InputError: The architecture is not supported, or the cache can't be written.
    """
    from icm_fast.model import load_model

    name = hashlib.sha256(os.path.abspath(folder).encode()).hexdigest()[:16]
    target = cache_dir() / "bench" / f"{name}-{dtype}-v{_FORMAT}.gguf"
    if target.is_file() and _is_newer(target, Path(folder)):
        return target
    loaded = load_model(folder, dtype="float32", device="cpu")
    partial = target.with_suffix(f".{os.getpid()}.tmp")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_gguf(loaded.model, dtype, partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def _is_newer(file: Path, folder: Path) -> bool:
    sources = [path.stat().st_mtime for path in folder.glob("*.safetensors")]
    return file.stat().st_mtime > max(sources, default=0.0)


def write_gguf(model: PreTrainedModel, dtype: str, path: Path) -> None:
    """Write the weights of a float32 model.

    Args:
        model: A transformers model of a known architecture.
        dtype: ``bfloat16`` or ``float32``, for the matrices.
        path: The new file.

    Raises:
        InputError: The architecture is not supported.
    """
    import gguf

    config = model.config
    if config.model_type not in _ARCHITECTURES:
        raise InputError(
            f"peer llama-cpp cannot run model type {config.model_type!r}"
            f"{suggest(config.model_type, _ARCHITECTURES)}"
        )
    writer = gguf.GGUFWriter(str(path), _ARCHITECTURES[config.model_type])
    _write_settings(writer, config)
    for name, array in _arrays(model):
        if array.ndim == 1 or dtype == "float32":
            writer.add_tensor(name, array)
        else:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_settings(writer: GGUFWriter, config: PretrainedConfig) -> None:
    rope = config.rope_parameters
    kinds = {kind: values for kind, values in rope.items() if isinstance(values, dict)}
    full = kinds.get("full_attention", rope)
    if full.get("rope_type", "default") != "default":
        raise InputError(f"peer llama-cpp cannot run rope type {full['rope_type']!r} here")
    width = head_dim(config)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(full["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)


def _arrays(model: PreTrainedModel) -> Iterator[tuple[str, FloatArray]]:
    """llama.cpp's names and float32 values of all weights."""
    import gguf

    config = model.config
    architecture = gguf.MODEL_ARCH[_ARCHITECTURES[config.model_type].upper()]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        short = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if short is None:
            raise InputError(f"peer llama-cpp has no name for the weight {name}")
        array = parameter.detach().float().contiguous().numpy()
        yield short, _converted(config, name, array)


def _converted(config: PretrainedConfig, name: str, array: FloatArray) -> FloatArray:
    """Weights as llama.cpp stores them."""
    if config.model_type == "gemma3_text" and name.endswith("norm.weight"):
        # transformers multiplies by one plus the weight, llama.cpp by the weight.
        return array + np.float32(1)
    if _ARCHITECTURES[config.model_type] == "llama":
        if "q_proj" in name:
            return _interleaved(array, config.num_attention_heads)
        if "k_proj" in name:
            return _interleaved(array, config.num_key_value_heads)
    return array


def _interleaved(array: FloatArray, n_heads: int) -> FloatArray:
    """Reorder rows for rotary positions on adjacent pairs instead of halves of a head."""
    halves = array.reshape(n_heads, 2, -1, *array.shape[1:])
    swapped: FloatArray = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
    return swapped
