"""Configurations, tokenizers and weights as transformers reads them, each checked when it is read.

Every call of ``from_pretrained`` for a model of a user stands here or passes
``trust_remote_code=False`` itself; a test searches the source for one that leaves it open, since
transformers then asks on stdin.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypedDict

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from icm_fast.errors import InputError, first_line, short_word
from icm_fast.model.telemetry import without_telemetry

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

UNREADABLE = (Exception,)
"""What transformers raises on files that are missing, damaged or of an unknown kind.

Every kind of error is among them: tokenizers raises Exception itself, huggingface_hub has errors of
its own for fields of a configuration.
"""

_QUANTISED: dict[str, tuple[str, str]] = {
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "gptq": ("gptqmodel", "gptqmodel optimum"),
    "awq": ("gptqmodel", "gptqmodel"),
    "aqlm": ("aqlm", "'aqlm[cpu,gpu]'"),
    "quanto": ("optimum.quanto", "optimum-quanto"),
    "eetq": ("eetq", "eetq"),
    "higgs": ("flute", "flute-kernel"),
    "hqq": ("hqq", "hqq"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "fbgemm_fp8": ("fbgemm_gpu", "fbgemm-gpu"),
    "torchao": ("torchao", "torchao"),
    "vptq": ("vptq", "vptq"),
    "spqr": ("spqr_quant", "'spqr_quant[gpu]'"),
    "quark": ("quark", "amd-quark"),
    "auto-round": ("auto_round", "auto-round"),
}
"""Quantised formats: the module that reads one, and what pip installs for it."""

_SHOWN = 3


class LoadingInfo(TypedDict):
    """What transformers says about a checkpoint that it read into a model."""

    missing_keys: Collection[str]
    unexpected_keys: Collection[str]
    mismatched_keys: Collection[tuple[str, tuple[int, ...], tuple[int, ...]]]
    error_msgs: Collection[str]


def read_config(folder: str, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """Read the configuration of a model; one that needs foreign code is refused.

    Args:
        folder: A folder or hub id.
        trust_remote_code: Run code of this repository, but of no other that it names.

    Raises:
        InputError: It names code of another repository.
        OSError, ValueError, KeyError: Raised by transformers.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    _refuse_foreign_code(folder, config)
    return config


def read_tokenizer(folder: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Read a tokenizer, with the corrected expression where transformers finds Mistral's wrong one.

    Raises:
        OSError, ValueError, KeyError: Raised by transformers.
    """
    with _quiet():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code
        )
        if not _has_wrong_split(tokenizer):
            return tokenizer
        corrected: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, fix_mistral_regex=True
        )
    return corrected


def _has_wrong_split(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether transformers knows that a tokenizer of Mistral splits texts wrongly.

    Older tokenizers of Mistral, which are SentencePiece's, get the same mark; the correction would
    break them, and they have no splitting expression.
    """
    if getattr(tokenizer, "fix_mistral_regex", None) is not False:
        return False
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return type(getattr(backend, "pre_tokenizer", None)).__name__ == "Sequence"


def read_weights(
    kind: type[_BaseAutoModelClass],
    folder: str,
    config: PretrainedConfig,
    dtype: torch.dtype,
    *,
    name: str,
    trust_remote_code: bool = False,
    device_map: str | dict[str, torch.device] | None = None,
    four_bits: BitsAndBytesConfig | None = None,
) -> PreTrainedModel:
    """Read a model's weights from safetensors, and check that all of them were there.

    Args:
        kind: ``AutoModelForCausalLM`` or another class of transformers.
        folder: A folder or hub id.
        config: What :func:`read_config` read.
        dtype: Of the weights.
        name: What the user called the model.
        trust_remote_code: Same as in :func:`read_config`.
        device_map: See transformers.
        four_bits: Quantise linear layers while they are read.

    Raises:
        InputError: Weights are missing or of another size, or the format needs a package.
        OSError, ValueError, KeyError, RuntimeError, SafetensorError: Raised by transformers.
    """
    check_quantisation(name, config)
    with _quiet():
        model, info = kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            device_map=device_map,
            **({} if four_bits is None else {"quantization_config": four_bits}),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    check_complete(name, info)
    loaded: PreTrainedModel = model
    return loaded


def check_complete(name: str, info: LoadingInfo) -> None:
    """Refuse weights that are not all there; warn of those that nothing reads.

    transformers fills what is missing with random numbers. It does not count tied weights as
    missing where the one that they are tied to is there.

    Raises:
        InputError: Names what is missing or of another size.
    """
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            f"the weights of model {name} are incomplete: no {_some(missing)}; download or save "
            "the model again"
        )
    if other := sorted(info["mismatched_keys"]):
        key, found, wanted = other[0]
        raise InputError(
            f"the weights of model {name} do not fit its config.json: {key} is {list(found)} in "
            f"the file, but {list(wanted)} by the configuration; restore the config.json that "
            "belongs to the weights"
        )
    if errors := sorted(info["error_msgs"]):
        raise InputError(
            f"cannot read the weights of model {name}: {errors[0].strip().splitlines()[0]}; "
            "download or save the model again"
        )
    if unexpected := sorted(info["unexpected_keys"]):
        warnings.warn(
            f"model {name} holds weights that {_some(unexpected)} names and its architecture does "
            "not have; they are not used, so check that config.json belongs to the weights",
            UserWarning,
            stacklevel=2,
        )


def check_quantisation(name: str, config: PretrainedConfig) -> None:
    """Refuse a quantised format whose package is not installed.

    Raises:
        InputError: Names the format and what to install.
    """
    method = quantisation_of(config)
    if method is None:
        return
    if method not in {*_QUANTISED, *AUTO_QUANTIZATION_CONFIG_MAPPING}:
        raise InputError(
            f"model {name} is quantised with {method[:40]!r}, which transformers does not read; "
            "use the model in safetensors without quantisation or as GGUF"
        )
    if method not in _QUANTISED:
        return  # transformers reads it alone, or says what it needs
    module, requirement = _QUANTISED[method]
    if not _installed(module):
        raise InputError(
            f"model {name} is quantised with {method}, which needs {module}; run "
            f"`pip install {requirement}`, or use the model in safetensors without quantisation or "
            "as GGUF"
        )


def quantisation_of(config: PretrainedConfig) -> str | None:
    """Name of the quantised format of a checkpoint, None where it has none."""
    given = getattr(config, "quantization_config", None)
    if given is None:
        return None
    content: Mapping[str, object] = given if isinstance(given, Mapping) else given.to_dict()
    method = content.get("quant_method")
    if method is None:
        by_bits = content.get("load_in_8bit") or content.get("load_in_4bit")
        return "bitsandbytes" if by_bits else "unknown"
    return str(getattr(method, "value", method))


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _refuse_foreign_code(folder: str, config: PretrainedConfig) -> None:
    """Refuse configurations that name code elsewhere: modules, or kernels of the hub.

    transformers loads an attention that is named ``owner/kernel`` without asking anybody.
    """
    parts = [config, *(getattr(config, key, None) for key in config.sub_configs)]
    for part in parts:
        attention = getattr(part, "_attn_implementation", None)
        if attention and "/" in str(attention):
            raise InputError(
                f"model {folder} asks for the attention {str(attention)[:60]!r}, which is code "
                "from the hub; delete attn_implementation in its config.json"
            )
    modules = getattr(config, "auto_map", None) or {}
    named = next((str(v) for v in modules.values() if "--" in str(v)), None)
    if named is not None and type(config).__module__.startswith("transformers_modules"):
        raise InputError(
            f"model {folder} runs code of another repository ({named[:60]!r}), which is not "
            "covered by trust_remote_code; load that repository itself"
        )


def not_found(spec: str, error: Exception, known: Collection[str]) -> str:
    """The message for a model that cannot be loaded."""
    return (
        f"cannot load model {spec!r}: {first_line(error)}; pass a hub id, a folder with "
        f"config.json and safetensors, a .gguf file, or one of {', '.join(sorted(known))}"
    )


def _some(names: Collection[str]) -> str:
    """The first names of a sorted list, and how many more there are."""
    first = ", ".join(short_word(name) for name in list(names)[:_SHOWN])
    return first + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and tables: what they say is checked here."""
    bars, verbosity = (
        transformers_logging.is_progress_bar_enabled(),
        transformers_logging.get_verbosity(),
    )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with without_telemetry():
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
