"""A loaded model and what identifies it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from icm_fast.errors import InputError
from icm_fast.model.decoder_config import DecoderConfig

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model in evaluation mode, with its tokenizer.

    Attributes:
        name: What the user called it.
        model: The transformers model.
        tokenizer: Its tokenizer.
        fingerprint: Hex digest of architecture and sampled weights; ties a run folder to a model.
        max_context: Longest context in tokens that the model was built for.
        cache: Values derived from the weights once, such as packed copies.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    max_context: int
    cache: dict[str, object] = field(default_factory=dict, compare=False, repr=False)

    @property
    def dtype_name(self) -> str:
        """``float32``, ``bfloat16`` or ``float16``."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def computation(self) -> str:
        """Hex digest of what the configuration says about how the model computes."""
        return computation_digest(self.model.config)

    @property
    def device(self) -> torch.device:
        """Device of the embedding, where token ids belong."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.model.parameters())


BALANCED = "balanced"
"""Device name that means all GPUs: transformers spreads the layers over them."""

ModelSpec = str | os.PathLike[str] | tuple[PreTrainedModel, PreTrainedTokenizerBase] | LoadedModel
"""What users may pass as a model; see :func:`icm_fast.model.load_model`."""


_NOT_COMPUTED = (
    *("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"),
    *("use_cache", "id2label", "label2id", "auto_map", "tokenizer_class", "_attn_implementation"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "num_labels", "problem_type"),
)
"""Keys of configurations that change no result."""


def computation_digest(config: PretrainedConfig) -> str:
    """Hex digest of rotary settings, windows, soft caps and all else that changes results.

    Only what differs from the defaults of the family counts, so that a version of transformers
    with more settings gives the same digest.
    """
    content = _computing(config.to_diff_dict())
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _computing(content: object) -> object:
    if isinstance(content, Mapping):
        return {str(k): _computing(v) for k, v in content.items() if k not in _NOT_COMPUTED}
    return content


def fingerprint_model(model: PreTrainedModel) -> str:
    """Digest of every parameter's name, shape, 64 evenly spaced values and 64 block sums."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        index = torch.linspace(0, max(flat.numel() - 1, 0), 64, dtype=torch.float64).long()
        sample = flat[index.to(flat.device)].float().cpu().numpy()
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(sample.tobytes())
        digest.update(_block_sums(flat).tobytes())
    return digest.hexdigest()


def _block_sums(flat: torch.Tensor) -> npt.NDArray[np.int64]:
    """Sums of 64 consecutive blocks, ``[64]``: every weight counts.

    The bits are added as integers, so the result depends neither on threads nor on the device.
    """
    bits = flat.view(_INTEGERS[flat.element_size()])
    sums = [block.sum(dtype=torch.int64) for block in bits.tensor_split(64)]
    array: npt.NDArray[np.int64] = torch.stack(sums).cpu().numpy()
    return array


def check_vocabulary(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    needed: Collection[str] = (),
) -> None:
    """Refuse a tokenizer whose words have no rows in the embedding.

    Some models leave added tokens, such as those of images, without a row.

    Args:
        name: What the user called the model.
        model: Has the embedding.
        tokenizer: Has the words.
        needed: Added tokens that need a row all the same.

    Raises:
        InputError: Names both sizes.
    """
    rows = len(model.get_input_embeddings().weight)
    optional = set(tokenizer.get_added_vocab()) - set(needed)
    words = tokenizer.get_vocab().items()
    largest = max((number for word, number in words if word not in optional), default=-1)
    if largest >= rows:
        raise InputError(
            f"the tokenizer of {name} has token ids up to {largest}, but the model has embeddings "
            f"for {rows} tokens only; use the tokenizer that the model was trained with"
        )


def max_context_of(config: DecoderConfig) -> int:
    """Longest context in tokens that a configuration allows."""
    text = config.get_text_config(decoder=True)
    return int(getattr(text, "max_position_embeddings", None) or 2**31 - 1)
