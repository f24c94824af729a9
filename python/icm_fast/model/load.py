"""Load a causal language model from a hub id, a folder, a GGUF file, a name or a pair."""

from __future__ import annotations

import os
import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from icm_fast.assets.locate import EMBEDDED_MODELS, embedded_model
from icm_fast.errors import InputError
from icm_fast.files import check_name, expanded
from icm_fast.model.adapter_files import fetched_adapter
from icm_fast.model.copies import without_replaced_methods
from icm_fast.model.gguf import converted_folder
from icm_fast.model.hardware import fast_bfloat16
from icm_fast.model.hub_reach import offline_where_unreachable
from icm_fast.model.loaded import (
    BALANCED,
    LoadedModel,
    ModelSpec,
    check_vocabulary,
    fingerprint_model,
    max_context_of,
)
from icm_fast.model.pretrained import (
    UNREADABLE,
    not_found,
    read_config,
    read_tokenizer,
    read_weights,
)
from icm_fast.model.quantised import NOT_QUANTISED, four_bits, is_quantised
from icm_fast.model.sharing import turn_to_load, use_available_processors

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
"""Nobody is asked about anything else."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    model: ModelSpec,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    quantization: str = NOT_QUANTISED,
) -> LoadedModel:
    """Load a model for scoring.

    Args:
        model: Hub id, folder (of a model, a fine-tuning or a peft adapter), ``.gguf`` file, name of
            an embedded model (``smollm2``, ``gemma3-270m``), a loaded ``(model, tokenizer)``
            pair, or a loaded model, which is returned as it is.
        dtype: ``auto`` is bfloat16 on a GPU or a CPU with fast bfloat16, otherwise float32.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, or ``balanced``: layers over all GPUs.
        trust_remote_code: Run code that this very repository brings along; the base that an
            adapter names, and code that lies elsewhere, are not covered.
        quantization: ``nf4`` or ``fp4``: linear layers in 4 bits, by bitsandbytes.

    Raises:
        InputError: The model can't be found or read, or has no causal decoder.
    """
    if isinstance(model, LoadedModel):
        _check_quantised(model.model, quantization)
        return model
    with turn_to_load():
        if isinstance(model, tuple):
            pair = _wrap_pair(model)
            _check_quantised(pair.model, quantization)
            return pair
        given: object = model
        if not isinstance(given, (str, os.PathLike)):
            raise InputError(
                "a model must be a hub id, a folder, a .gguf file, a (model, tokenizer) pair or a "
                f"loaded model, got {type(given).__name__}"
            )
        spec = os.fspath(model)
        check_name("model", spec)
        with offline_where_unreachable() if _is_hub_id(spec) else nullcontext():
            return _load(spec, dtype, device, trust_remote_code, quantization)


def _check_quantised(model: PreTrainedModel, quantization: str) -> None:
    """Raise InputError if a model that is loaded is not in the 4 bits that are wanted."""
    if quantization != NOT_QUANTISED and not is_quantised(model):
        raise InputError(
            f"quantization={quantization} applies while a model is read, but this one is loaded "
            "already; pass its name, or load_model(name, quantization=...)"
        )


def _load(
    spec: str, dtype: str, device: str, trust_remote_code: bool, quantization: str
) -> LoadedModel:
    from icm_fast.model.adapters import find_tuned, load_tuned

    check_name("model", spec)
    if spec.startswith(("http://", "https://")):
        raise InputError(
            f"{spec} is a server address, but this needs the weights of the model; "
            "pass a hub id, a folder or a .gguf file"
        )
    use_available_processors()
    target = pick_device(device)
    tuned = find_tuned(spec) or _adapter_on_the_hub(spec)
    if tuned is not None:
        return load_tuned(
            spec,
            tuned,
            # Trust in an adapter is not trust in the repository that it names.
            lambda name, bits: load_model(name, dtype=dtype, device=device, quantization=bits),
            quantization,
        )
    folder = model_source(spec)
    config, tokenizer = _read_config(spec, folder, trust_remote_code)
    kind = pick_dtype(dtype, target)
    bits = four_bits(quantization, kind)
    spread = device == BALANCED
    # Layers in 4 bits are made where they stay.
    places = BALANCED if spread else None if bits is None else {"": target}
    loaded = _read_weights(spec, folder, config, kind, trust_remote_code, places, bits)
    # With a device map, transformers has placed the layers already.
    loaded = (_placed(spec, loaded, target) if places is None else loaded).eval()
    made = _loaded_model(spec, loaded.requires_grad_(False), tokenizer)
    if bits is not None:
        made.cache["cpu_decoder"] = None  # it reads whole weights
    return made


@dataclass(frozen=True, slots=True)
class ModelOutline:
    """What is known of a model without its weights.

    Attributes:
        config: Configuration of the decoder.
        tokenizer: The tokenizer.
        max_context: Longest context in tokens that the model was built for.
        dtype: What the weights would be loaded as.
        device: Where they would be placed.
        decoder_parameters: Weights of all layers, without embeddings and head.
        weight_bytes: Memory of all weights.
    """

    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    max_context: int
    dtype: torch.dtype
    device: torch.device
    decoder_parameters: int
    weight_bytes: int

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one weight."""
        return int(self.dtype.itemsize)


def outline_model(model: str, *, dtype: str = "auto", device: str = "auto") -> ModelOutline:
    """Read the configuration and the tokenizer of a model, and count its weights.

    Args:
        model: Hub id, folder, ``.gguf`` file or embedded name; an adapter counts as its base.
        dtype: See :func:`load_model`.
        device: See :func:`load_model`.

    Raises:
        InputError: The model can't be found or read, or has no causal decoder.
    """
    from icm_fast.model.adapters import find_tuned

    if find_tuned(model) is not None:
        loaded = load_model(model, dtype=dtype, device=device)
        return _outline(loaded.model, loaded.tokenizer, loaded.model.dtype, loaded.device)
    target = pick_device(device)
    folder = model_source(model)
    config, tokenizer = _read_config(model, folder, trust_remote_code=False)
    with torch.device("meta"):  # shapes alone: nothing is allocated
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return _outline(empty, tokenizer, pick_dtype(dtype, target), target)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a model, without its weights.

    Args:
        name: Hub id, folder, ``.gguf`` file or embedded name.

    Raises:
        InputError: It can't be found or read.
    """
    check_name("tokenizer", name)
    with offline_where_unreachable() if _is_hub_id(name) else nullcontext(), turn_to_load():
        folder = model_source(name)
        try:
            return read_tokenizer(folder, trust_remote_code=False)
        except UNREADABLE as error:
            raise InputError(not_found(name, error, EMBEDDED_MODELS)) from error


def _outline(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    device: torch.device,
) -> ModelOutline:
    decoder = model.config.get_text_config(decoder=True)
    vocabulary = int(model.get_input_embeddings().weight.numel())
    total = sum(p.numel() for p in model.parameters())
    head = model.get_output_embeddings()
    tied = head is None or head.weight is model.get_input_embeddings().weight
    return ModelOutline(
        config=decoder,
        tokenizer=tokenizer,
        max_context=max_context_of(model.config),
        dtype=dtype,
        device=device,
        decoder_parameters=total - vocabulary * (1 if tied else 2),
        weight_bytes=total * dtype.itemsize,
    )


def _placed(spec: str, model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    try:
        placed: PreTrainedModel = model.to(device)
    except torch.OutOfMemoryError:
        size = sum(p.nbytes for p in model.parameters())
        raise InputError(
            f"model {spec} needs {size:,} bytes and does not fit in the memory of {device}; use "
            f"device={BALANCED} with several GPUs, a smaller model, or device=cpu"
        ) from None
    return placed


def pick_device(device: str) -> torch.device:
    """Resolve ``auto`` and check that the device exists.

    Raises:
        InputError: The name is unknown, or torch does not see the device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device("cuda" if device == BALANCED else device)
    except RuntimeError:
        raise InputError(
            f"unknown device {device!r}; use auto, cpu, cuda, cuda:N or {BALANCED}"
        ) from None
    if target.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {device!r}, but torch sees no GPU; use device=cpu")
    on_gpu = target.type == "cuda" and target.index is not None
    if on_gpu and target.index >= (n := torch.cuda.device_count()):
        raise InputError(
            f"device is {device!r}, but torch sees only {n} GPUs; use cuda:{n - 1} or lower"
        )
    return target


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Resolve ``auto``: bfloat16 where its products are fast, otherwise float32."""
    if dtype != "auto":
        return _DTYPES[dtype]
    fast = device.type != "cpu" or fast_bfloat16()
    return torch.bfloat16 if fast else torch.float32


def _wrap_pair(pair: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> LoadedModel:
    if len(pair) != 2 or not isinstance(pair[0], PreTrainedModel):
        raise InputError(
            "a model pair must be (transformers model, tokenizer), got "
            f"({', '.join(type(part).__name__ for part in pair)})"
        )
    given, tokenizer = pair
    model = without_replaced_methods(given)
    if model.training:
        model.eval()
    name = str(model.config.name_or_path or type(model).__name__)
    _require_decoder(name, model.config)
    return _loaded_model(name, model, tokenizer)


def _loaded_model(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> LoadedModel:
    if any(p.is_meta for p in model.parameters()):
        raise InputError(
            f"the weights of model {name} do not fit in the devices' memory; use a smaller model "
            "or dtype, more GPUs, or device=cpu"
        )
    check_vocabulary(name, model, tokenizer)
    _keep_caps(model)
    return LoadedModel(
        name, model, tokenizer, fingerprint_model(model), max_context_of(model.config)
    )


def _keep_caps(model: PreTrainedModel) -> None:
    """Replace torch's attention where it would ignore that the model caps its attention scores.

    Versions of transformers before 5.23 choose it for Gemma 2 all the same.
    """
    config = model.config.get_text_config(decoder=True)
    capped = getattr(config, "attn_logit_softcapping", None)
    if capped and config.model_type == "gemma2" and config._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")


def check_model_name(spec: str) -> None:
    """Raise InputError if a local model does not exist; hub ids are not looked up."""
    check_name("model", spec)
    path = expanded(spec)
    if spec in EMBEDDED_MODELS:
        embedded_model(spec)
    elif spec.endswith(".gguf"):
        if not path.is_file():
            raise InputError(f"model file {spec} does not exist; check the path")
    elif path.is_file():
        raise InputError(f"model {spec} is a file but not a .gguf; pass its folder")
    elif _looks_local(spec) and not path.is_dir():
        raise InputError(f"model folder {spec} does not exist; check the path")


def _looks_local(spec: str) -> bool:
    absolute = expanded(spec).is_absolute()
    return absolute or spec.startswith((".", "~")) or spec.count("/") > 1


def _is_hub_id(spec: str) -> bool:
    """Whether a model is looked for on the Hub."""
    here = spec in EMBEDDED_MODELS or spec.endswith(".gguf") or _looks_local(spec)
    return not here and _HUB_ID.fullmatch(spec) is not None and not expanded(spec).exists()


def _adapter_on_the_hub(spec: str) -> Path | None:
    """The files of the adapter that a hub id names, None where it names none."""
    return fetched_adapter(spec) if _is_hub_id(spec) else None


def model_source(spec: str) -> str:
    """Turn an embedded name or a GGUF file into a folder; leave folders and hub ids.

    Raises:
        InputError: A local model does not exist, or a GGUF file cannot be converted.
    """
    check_model_name(spec)
    if spec in EMBEDDED_MODELS:
        return str(converted_folder(embedded_model(spec)))
    path = expanded(spec)
    if spec.endswith(".gguf"):
        return str(converted_folder(path))
    return str(path) if _looks_local(spec) else spec


def _read_config(
    spec: str, folder: str, trust_remote_code: bool
) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    try:
        config = read_config(folder, trust_remote_code=trust_remote_code)
        tokenizer = read_tokenizer(folder, trust_remote_code=trust_remote_code)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(not_found(spec, error, EMBEDDED_MODELS)) from error
    _require_decoder(spec, config)
    return config, tokenizer


def _require_decoder(name: str, config: PretrainedConfig) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"model {name} is an encoder-decoder ({config.model_type}); ICM needs a causal "
            "decoder: pass a causal language model"
        )


def _read_weights(
    spec: str,
    folder: str,
    config: PretrainedConfig,
    dtype: torch.dtype,
    trust_remote_code: bool,
    places: str | dict[str, torch.device] | None,
    bits: BitsAndBytesConfig | None,
) -> PreTrainedModel:
    try:
        return read_weights(
            AutoModelForCausalLM,
            folder,
            config,
            dtype,
            name=spec,
            trust_remote_code=trust_remote_code,
            device_map=places,
            four_bits=bits,
        )
    except (InputError, torch.OutOfMemoryError):
        raise
    except UNREADABLE as error:
        raise InputError(not_found(spec, error, EMBEDDED_MODELS)) from error
