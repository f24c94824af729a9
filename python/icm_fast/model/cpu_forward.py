"""Packed batches through the native CPU decoder, for the families that it knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from icm_fast import _core
from icm_fast.errors import InputError
from icm_fast.model.hardware import available_bytes
from icm_fast.model.load import LoadedModel
from icm_fast.model.packed import PackedBatch

_GEMMA = frozenset({"gemma2", "gemma3_text"})
_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "phi3"}) | _GEMMA
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
# transformers' names of our parts, where a layer has them.
_NORMS = {
    "input_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
}
_GEMMA_NORMS = {
    "input_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "post_feed_forward_norm": "post_feedforward_layernorm",
}

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CpuDecoder:
    """The native decoder of a model with the order of its rotary tables.

    The copy is made once: load the model anew (``load_model``) after its weights have changed.

    Attributes:
        native: Packed weights and threads; not for concurrent calls.
        rotary_kinds: Layer type of each rotary table, None where all layers share one.
    """

    native: _core.CpuDecoder
    rotary_kinds: tuple[str | None, ...]


def cpu_decoder(loaded: LoadedModel, *, int8: bool = False) -> CpuDecoder | None:
    """The native decoder of a model, made once; None where the model has to run generically.

    It runs float32 everywhere, bfloat16 on processors with dot products for it.

    Args:
        loaded: The model.
        int8: Approximate the linear layers by 8-bit integers.

    Raises:
        InputError: ``int8`` is asked for, but the processor or the model cannot have it.
    """
    if int8 and _core.cpu_int8_isa() is None:
        raise InputError(
            "int8 needs a processor with AVX-512 VNNI, which this one is not; drop int8"
        )
    key = "cpu_decoder_int8" if int8 else "cpu_decoder"
    if key not in loaded.cache:
        loaded.cache[key] = _make(loaded, int8) if _is_supported(loaded) else None
    decoder: CpuDecoder | None = loaded.cache[key]
    if int8 and decoder is None:
        raise InputError(
            f"int8 needs the native CPU decoder, which does not run this model "
            f"({loaded.model.config.model_type}, {loaded.dtype_name}, {loaded.device}); drop int8"
        )
    return decoder


def _is_supported(loaded: LoadedModel) -> bool:
    model, config = loaded.model, loaded.model.config
    if config.model_type not in _FAMILIES or loaded.device.type != "cpu":
        return False
    if loaded.dtype_name not in {"float32", "bfloat16"}:
        return False
    if _core.cpu_isa(loaded.dtype_name) is None:
        return False
    parts = [part for layer in model.base_model.layers for _, part in _linear_parts(layer)]
    if any(type(part) is not torch.nn.Linear for part in parts):
        return False
    # The packed copy stands beside the model's own weights.
    weight_bytes = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    return (
        all(_known_biases(layer) for layer in model.base_model.layers)
        and _activation(config) in _ACTIVATIONS
        and config.hidden_size % 2 == 0
        and weight_bytes < available_bytes()
    )


def _known_biases(layer: Any) -> bool:
    """Whether queries, keys and values all have a bias or none, and nothing else has one."""
    biased = {name for name, part in _linear_parts(layer) if part.bias is not None}
    return biased in (set(), {"q_proj", "k_proj", "v_proj"})


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_activation", None) or config.hidden_act)


def _linear_parts(layer: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    for owner in (layer.self_attn, layer.mlp):
        for name, part in owner.named_children():
            if name.endswith("_proj"):
                yield name, part


def _make(loaded: LoadedModel, int8: bool) -> CpuDecoder:
    model, config = loaded.model, loaded.model.config
    layers = model.base_model.layers
    head_dim = int(layers[0].self_attn.head_dim)
    kinds = tuple(_layer_kind(config, k) for k in range(len(layers)))
    tables: tuple[str | None, ...] = (None,)
    if config.model_type == "gemma3_text":
        tables = tuple(sorted({kind for kind in kinds if kind is not None}))
    native = _core.CpuDecoder(
        dtype=loaded.dtype_name,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        n_layers=len(layers),
        norm_eps=config.rms_norm_eps,
        activation=_ACTIVATIONS[_activation(config)],
        n_threads=torch.get_num_threads(),
        int8=int8,
    )
    for layer, kind in zip(layers, kinds, strict=True):
        attention = layer.self_attn
        native.add_layer(
            _layer_arrays(config, layer),
            rotary=tables.index(kind) if len(tables) > 1 or tables[0] else 0,
            window=_window(config, kind),
            scaling=float(attention.scaling),
            softcap=float(getattr(config, "attn_logit_softcapping", None) or 0.0),
        )
    return CpuDecoder(native, tables)


def _layer_kind(config: Any, layer: int) -> str | None:
    kinds = getattr(config, "layer_types", None)
    return None if kinds is None else str(kinds[layer])


def _window(config: Any, kind: str | None) -> int:
    if kind == "full_attention":
        return 0
    return int(getattr(config, "sliding_window", None) or 0)


def _layer_arrays(config: Any, layer: Any) -> dict[str, FloatArray]:
    arrays = dict(_projections(config, layer.self_attn, layer.mlp))
    arrays["output"] = _array(layer.self_attn.o_proj.weight)
    arrays["down"] = _array(layer.mlp.down_proj.weight)
    is_gemma = config.model_type in _GEMMA
    names = _GEMMA_NORMS if is_gemma else _NORMS
    norms = {name: getattr(layer, theirs) for name, theirs in names.items()}
    for name, theirs in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
        if (norm := getattr(layer.self_attn, theirs, None)) is not None:
            norms[name] = norm
    for name, norm in norms.items():
        # Gemma's norms multiply by one plus their weight.
        arrays[name] = _array(norm.weight) + np.float32(is_gemma)
    return arrays


def _projections(config: Any, attention: Any, mlp: Any) -> Iterator[tuple[str, FloatArray]]:
    if hasattr(attention, "qkv_proj"):  # phi3
        queries = config.num_attention_heads * attention.head_dim
        keys = config.num_key_value_heads * attention.head_dim
        whole = _array(attention.qkv_proj.weight)
        yield "query", whole[:queries].copy()
        yield "key", whole[queries : queries + keys].copy()
        yield "value", whole[queries + keys :].copy()
        both = _array(mlp.gate_up_proj.weight)
        yield "gate", both[: config.intermediate_size].copy()
        yield "up", both[config.intermediate_size :].copy()
        return
    for name, part in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        linear = getattr(attention, part)
        yield name, _array(linear.weight)
        if linear.bias is not None:
            yield f"{name}_bias", _array(linear.bias)
    yield "gate", _array(mlp.gate_proj.weight)
    yield "up", _array(mlp.up_proj.weight)


def _array(weight: torch.Tensor) -> FloatArray:
    array: FloatArray = weight.detach().float().contiguous().numpy()
    return array


class CpuForward:
    """The native decoder with a pool and rotary tables of its own plan."""

    def __init__(self, loaded: LoadedModel, decoder: CpuDecoder) -> None:
        self._model: PreTrainedModel = loaded.model
        self._decoder = decoder
        self._pool: _core.KvPool | None = None

    def open(self, pool_tokens: int, longest_context: int, *, keep: bool = False) -> None:
        """Make room for a plan."""
        if self._pool is None or self._pool.n_slots < pool_tokens:
            self._pool = None  # freed before its successor is made
            self._pool = self._decoder.native.make_pool(pool_tokens)
        # Made anew for each plan: some kinds of positions depend on the longest context.
        self._decoder.native.set_rotary(
            [self._rotary(kind, longest_context) for kind in self._decoder.rotary_kinds]
        )

    def pool_bytes(self) -> int:
        """Bytes of keys and values held."""
        return 0 if self._pool is None else int(self._pool.n_bytes)

    def run(self, batch: PackedBatch) -> torch.Tensor:
        """Forward one batch; see :class:`icm_fast.model.packed.Forward`."""
        assert self._pool is not None, "open() comes first"
        ranges = [r for path in batch.ranges for r in path]
        offsets = np.cumsum([0, *(len(path) for path in batch.ranges)])
        embedding = self._model.get_input_embeddings()
        hidden = self._decoder.native.forward(
            self._pool,
            embedding(torch.from_numpy(batch.token_ids)).float().numpy(),
            n_tokens=batch.n_tokens,
            own=batch.own,
            range_offsets=offsets,
            range_begin=np.array([begin for begin, _ in ranges], np.int64),
            range_end=np.array([end for _, end in ranges], np.int64),
            wanted=batch.wanted,
            rotary_start=batch.rotary_start,
        )
        # In float32: the norm casts back to the dtype of its input.
        normed: torch.Tensor = self._model.base_model.norm(torch.from_numpy(hidden))
        return normed

    def _rotary(self, kind: str | None, n_positions: int) -> tuple[FloatArray, FloatArray]:
        """Cosines and sines, ``[n_positions, half]`` each, as the model computes them."""
        like = torch.zeros(1, dtype=torch.float32)
        positions = torch.arange(n_positions)[None]
        kinds = () if kind is None else (kind,)
        cosine, sine = self._model.base_model.rotary_emb(like, positions, *kinds)
        half = cosine.shape[-1] // 2
        return _array(cosine[0, :, :half]), _array(sine[0, :, :half])
