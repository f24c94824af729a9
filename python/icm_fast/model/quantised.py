"""Models whose linear layers are quantised to 4 bits while they are read, by bitsandbytes."""

from __future__ import annotations

import importlib.util
import logging
import sys
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from icm_fast.errors import InputError, shown, suggest

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

NOT_QUANTISED = "none"
QUANTISATIONS = (NOT_QUANTISED, "nf4", "fp4")


def four_bits(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Transformers' settings of a quantisation; None for ``none``.

    Args:
        kind: One of ``QUANTISATIONS``.
        dtype: In which products are computed.

    Raises:
        InputError: Unknown kind, or bitsandbytes is missing.
    """
    if kind not in QUANTISATIONS:
        raise InputError(f"unknown quantization {shown(kind)}{suggest(str(kind), QUANTISATIONS)}")
    if kind == NOT_QUANTISED:
        return None
    import_bitsandbytes(kind)
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def import_bitsandbytes(kind: str) -> ModuleType:
    """The package bitsandbytes, which must not fetch code.

    On processors with AVX512_BF16 it looks for the package ``kernels``, through which it would run
    a kernel from the hub.

    Raises:
        InputError: It is not installed.
    """
    if (loaded := sys.modules.get("bitsandbytes")) is not None:
        return loaded
    before, absent = sys.modules.get("kernels"), "kernels" not in sys.modules
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it would say that the kernel is missing
    sys.modules["kernels"] = None  # type: ignore[assignment]  # an import of it fails
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise InputError(
            f"quantization={kind} needs bitsandbytes ({error}); run pip install "
            "'bitsandbytes>=0.46', or set quantization to none"
        ) from error
    finally:
        logger.setLevel(level)
        if absent:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = before  # type: ignore[assignment]


def import_before_others() -> None:
    """Import bitsandbytes where it is installed, before peft does, which would let it fetch."""
    if "bitsandbytes" in sys.modules or importlib.util.find_spec("bitsandbytes") is None:
        return
    with suppress(InputError):  # damaged: whoever needs it will say so
        import_bitsandbytes(QUANTISATIONS[1])


def is_quantised(model: PreTrainedModel) -> bool:
    """Whether linear layers of a model are in 4 bits."""
    return any(type(module).__name__ == "Linear4bit" for module in model.modules())


def mark_quantised(model: PreTrainedModel, source: PreTrainedModel) -> None:
    """Tell peft and trainers how the layers are stored that a model has from ``source``."""
    for name in ("is_loaded_in_4bit", "is_quantized", "quantization_method", "hf_quantizer"):
        if name in vars(source):
            setattr(model, name, vars(source)[name])
