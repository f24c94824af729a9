"""Which implementation forwards a model, on which threads and kernels, and why no faster one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch

from icm_fast._core import cpu_int8_isa
from icm_fast.kernels.label_logprob import Head, select_label_logprob
from icm_fast.kernels.tree_attention import cuda
from icm_fast.kernels.tree_attention.select import (
    libraries_because,
    select_tree_attention,
    slower_because,
)
from icm_fast.model.decoder_config import DecoderConfig
from icm_fast.model.forward.batch import Forward
from icm_fast.model.forward.cpu import CpuForward, unsupported_because
from icm_fast.model.forward.device import DeviceForward, unserved_because
from icm_fast.model.hardware import fast_bfloat16
from icm_fast.model.kv_size import head_dim, kv_heads
from icm_fast.model.loaded import LoadedModel

PathName = Literal["native decoder", "device kernels", "transformers", "whole prompts"]

ISA_VARIABLE = "ICM_FAST_ISA"

_SOME_SLOTS = 128
"""Slots of a pool like the real one, to ask which kernel it gets."""

_FASTER_FLAGS = {"portable": ("avx2", "fma"), "avx2": ("avx512f", "avx512bw", "avx512dq")}
"""What the next faster instruction set needs of the processor."""


@dataclass(frozen=True, slots=True)
class ForwardPath:
    """How segments are forwarded.

    Attributes:
        name: ``native decoder``, ``device kernels``, ``transformers`` (the model's own layers with
            tree attention), or ``whole prompts`` (the naive scorer).
        device: Where the weights are.
        dtype: Of the weights.
        threads: Processor threads that compute.
        instructions: Instruction set of the native decoder; empty elsewhere.
        kernels: Implementation of each operation, outside the native decoder.
        slower_because: Why nothing faster runs; empty where nothing faster is known.
        libraries: Why each other library of attention does not serve, by name; on a GPU only.
    """

    name: PathName
    device: str
    dtype: str
    threads: int
    instructions: str = ""
    kernels: Mapping[str, str] = field(default_factory=dict)
    slower_because: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)

    def sentence(self) -> str:
        """One line for people."""
        parts = [f"{self.name}, {self.dtype} on {self.device}"]
        if self.instructions:
            parts.append(f"{self.instructions} instructions")
        if self.device == "cpu":
            parts.append(f"{self.threads} threads" if self.threads > 1 else "1 thread")
        parts += [f"{operation} by {kernel}" for operation, kernel in self.kernels.items()]
        reason = f"; not faster, since {self.slower_because}" if self.slower_because else ""
        return ", ".join(parts) + reason


def path_of(loaded: LoadedModel, forward: Forward | None, *, int8: bool = False) -> ForwardPath:
    """Describe an implementation that was picked for a model.

    Args:
        loaded: The model.
        forward: What runs its segments; None where whole prompts run through its own layers.
        int8: Whether the native decoder approximates by 8-bit integers.
    """
    where = (str(loaded.device), loaded.dtype_name)
    if isinstance(forward, CpuForward):
        native = forward.native
        isa = f"{native.isa} and {cpu_int8_isa()}" if int8 else native.isa
        reason = _slower_instructions(native.isa, loaded.dtype_name)
        return ForwardPath(
            "native decoder",
            *where,
            threads=native.n_threads,
            instructions=isa,
            slower_because=reason,
        )
    threads = torch.get_num_threads()
    if forward is None:
        reason = "scorer=naive forwards every prompt as a whole; scorer=tree shares prefixes"
        return ForwardPath("whole prompts", *where, threads=threads, slower_because=reason)
    kernels, slower, libraries = _attention(loaded)
    kernels["label scores"] = _label_scores(loaded)
    name: PathName = "transformers"
    if isinstance(forward, DeviceForward):
        kernels |= {name: _named(kernel) for name, kernel in forward.kernels.items()}
        name, reason = "device kernels", ""
    elif loaded.device.type == "cpu":
        reason = unsupported_because(loaded)
    else:
        reason = unserved_because(loaded)
    # Where the whole forward pass and its attention lack the same thing, it is said once.
    reasons = "; ".join(dict.fromkeys(filter(None, (reason, slower))))
    return ForwardPath(
        name,
        *where,
        threads=threads,
        kernels=kernels,
        slower_because=reasons,
        libraries=libraries,
    )


def warn_of_slow_device(path: ForwardPath | None) -> None:
    """Warn where a model on a GPU runs by less than the fastest implementation."""
    if path is not None and path.device != "cpu" and path.slower_because:
        warnings.warn(
            f"slower than this GPU could be: {path.sentence()}", RuntimeWarning, stacklevel=2
        )


def _slower_instructions(isa: str, dtype: str) -> str:
    """Why the native decoder uses no faster instructions or dtype."""
    if forbidden := os.environ.get(ISA_VARIABLE):
        return f"{ISA_VARIABLE}={forbidden} forbids faster instructions"
    if isa in _FASTER_FLAGS:
        return f"this processor lacks some of {', '.join(_FASTER_FLAGS[isa])}"
    if dtype == "float32":
        if fast_bfloat16():
            return "dtype=float32 was asked for; bfloat16 is faster on this processor"
        return "this processor has no products of bfloat16"
    return ""


def _attention(loaded: LoadedModel) -> tuple[dict[str, str], str, dict[str, str]]:
    """Kernel of the attention and copies of keys, why nothing faster, and why no library."""
    query, pool = _heads(loaded)
    softcap, sinks = _options(loaded)
    attend = select_tree_attention(query, pool, softcap=softcap, sinks=sinks)
    kernels = {"attention": _named(attend)}
    if attend is cuda.wgmma_tree_attention and query.shape[-1] <= cuda.WIDEST_WGMMA:
        kernels["copies of keys"] = "boxes" if cuda.copies_boxes(pool, pool) else "rows"
    slower = slower_because(query, pool, attend)
    return kernels, slower, libraries_because(query, pool, attend, softcap=softcap, sinks=sinks)


def _heads(loaded: LoadedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """A query and a pool as the model's attention has them, uninitialised."""
    config: DecoderConfig = loaded.model.config.get_text_config(decoder=True)
    width = head_dim(config)
    like = torch.empty(0, dtype=loaded.model.dtype, device=loaded.device)
    query = like.new_empty(int(config.num_attention_heads), 1, width)
    return query, like.new_empty(kv_heads(config), _SOME_SLOTS, width)


def _options(loaded: LoadedModel) -> tuple[float | None, torch.Tensor | None]:
    """Cap of the scores and sinks of a layer, as the model's attention passes them."""
    config: DecoderConfig = loaded.model.config.get_text_config(decoder=True)
    named = loaded.model.named_parameters()
    sinks = next((tensor for name, tensor in named if name.endswith(".sinks")), None)
    return getattr(config, "attn_logit_softcapping", None), sinks


def _label_scores(loaded: LoadedModel) -> str:
    """Implementation of the label head."""
    weight = loaded.model.get_output_embeddings().weight
    # Last states are where the head is, in the dtype of the weights.
    kernel = select_label_logprob(weight[:0], Head(weight))
    return "torch" if kernel is None else _named(kernel)


def _named(kernel: Callable[..., Any]) -> str:
    """The last part of the name of an implementation's module, such as ``triton`` or ``naive``."""
    settings = ""
    if isinstance(kernel, partial):
        values = (getattr(value, "__name__", value) for value in kernel.keywords.values())
        settings = "".join(f" ({value})" for value in values)
        kernel = kernel.func
    return kernel.__module__.rpartition(".")[2] + settings
