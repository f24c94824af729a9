"""Packed batches through the native CPU decoder, for the model families that it knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from icm_fast._core import CpuDecoder as NativeDecoder
from icm_fast._core import KvPool, RotaryTables, cpu_int8_isa, cpu_isa
from icm_fast.errors import InputError
from icm_fast.model.forward.batch import PackedBatch
from icm_fast.model.forward.decoder_layers import (
    Decoder,
    DecoderLayer,
    decoder_of,
    linear_parts,
    rotary_tables,
    unknown_because,
)
from icm_fast.model.hardware import available_bytes
from icm_fast.model.loaded import LoadedModel
from icm_fast.model.sharing import native_threads, turn_of

_PROJECTIONS = ("query", "key", "value", "gate", "up")
"""Our names of a layer's projections, in order."""

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CpuDecoder:
    """The native decoder of a model, with the order of its rotary tables.

    It holds a copy of the weights: load the model again (``load_model``) after changing them.

    Attributes:
        native: Packed weights and threads; concurrent calls take turns.
        rotary_kinds: Layer type of each rotary table; None if all layers share one.
    """

    native: NativeDecoder
    rotary_kinds: tuple[str | None, ...]


def cpu_decoder(loaded: LoadedModel, *, int8: bool = False) -> CpuDecoder | None:
    """The native decoder of a model, built once; None if the model is not supported.

    It runs float32 on every processor, and bfloat16 where there are instructions for its products.

    Args:
        loaded: The model.
        int8: Approximate the linear layers with 8-bit integers.

    Raises:
        InputError: The processor or the model does not support ``int8``.
    """
    if int8 and cpu_int8_isa() is None:
        raise InputError(
            "int8 needs a processor with AVX-512 VNNI, which this one lacks; drop int8"
        )
    key = "cpu_decoder_int8" if int8 else "cpu_decoder"
    with turn_of(loaded.model):
        if key not in loaded.cache:
            loaded.cache[key] = None if unsupported_because(loaded) else _make(loaded, int8)
        decoder = loaded.cache[key]
    assert decoder is None or isinstance(decoder, CpuDecoder)
    if int8 and decoder is None:
        raise InputError(
            f"int8 needs the native CPU decoder, which does not support this model "
            f"({loaded.model.config.model_type}, {loaded.dtype_name}, {loaded.device}); drop int8"
        )
    return decoder


def unsupported_because(loaded: LoadedModel) -> str:
    """Why the native decoder does not run a model; empty where it does."""
    model, dtype = loaded.model, loaded.dtype_name
    if loaded.device.type != "cpu":
        return f"the model is on {loaded.device}"
    if dtype not in {"float32", "bfloat16"}:
        return f"the native decoder has no {dtype}; dtype=float32 is faster"
    if cpu_isa(dtype) is None:
        return f"no instructions for {dtype} may be used here; dtype=float32 is faster"
    if unknown := unknown_because(model):
        return unknown
    if int(model.config.hidden_size) % 2:
        return f"the hidden size {model.config.hidden_size} is odd"
    # The packed copy is held in addition to the model's own weights.
    weight_bytes = sum(p.nbytes for part in linear_parts(model) for p in part.parameters())
    if weight_bytes >= (free := available_bytes()):
        return f"a packed copy of the weights takes {weight_bytes:,} bytes, and {free:,} are free"
    return ""


def _make(loaded: LoadedModel, int8: bool) -> CpuDecoder:
    config, decoder = loaded.model.config, decoder_of(loaded.model)
    native = NativeDecoder(
        dtype=loaded.dtype_name,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        n_heads=decoder.n_heads,
        n_kv_heads=decoder.n_kv_heads,
        head_dim=decoder.head_dim,
        n_layers=len(decoder.layers),
        norm_eps=decoder.norm_eps,
        activation=decoder.activation,
        n_threads=native_threads(),
        int8=int8,
    )
    for layer in decoder.layers:
        native.add_layer(
            _layer_arrays(decoder, layer),
            rotary=layer.rotary,
            window=layer.window or 0,
            scaling=layer.scaling,
            softcap=layer.softcap or 0.0,
        )
    return CpuDecoder(native, decoder.rotary_kinds)


def _layer_arrays(decoder: Decoder, layer: DecoderLayer) -> dict[str, FloatArray]:
    arrays = {"output": _array(layer.output.weight), "down": _array(layer.down.weight)}
    parts = (*layer.heads.parts(), *layer.units.parts())
    for name, (weight, bias) in zip(_PROJECTIONS, parts, strict=True):
        arrays[name] = _array(weight)
        if bias is not None:
            arrays[f"{name}_bias"] = _array(bias)
    for name, weight in layer.norms.items():
        arrays[name] = _array(weight) + np.float32(decoder.norm_plus_one)
    return arrays


def _array(weight: torch.Tensor) -> FloatArray:
    array: FloatArray = weight.detach().float().contiguous().numpy()
    return array


def _half(table: torch.Tensor) -> FloatArray:
    """The first half of each row, which the second repeats."""
    return _array(table[:, : table.shape[1] // 2])


class CpuForward:
    """The native decoder, with the pool and the rotary tables of a plan."""

    def __init__(self, loaded: LoadedModel, decoder: CpuDecoder) -> None:
        self._model: PreTrainedModel = loaded.model
        self._decoder = decoder
        self.native = decoder.native
        self._pool: KvPool | None = None
        self._rotary: RotaryTables | None = None

    def open(self, pool_tokens: int, longest_context: int, *, keep: bool = False) -> None:
        """Make room for a plan."""
        if self._pool is None or self._pool.n_slots < pool_tokens:
            self._pool = None  # freed before the larger one is allocated
            self._pool = self._decoder.native.make_pool(pool_tokens)
        like = torch.zeros(1, dtype=torch.float32)
        kinds = self._decoder.rotary_kinds
        with turn_of(self._model):  # some kinds of positions change with every call
            tables = rotary_tables(self._model, kinds, longest_context, like)
        halves = [(_half(cosine), _half(sine)) for cosine, sine in tables]
        self._rotary = self._decoder.native.make_rotary(halves)

    def pool_bytes(self) -> int:
        """Bytes of keys and values held."""
        return 0 if self._pool is None else int(self._pool.n_bytes)

    def run(self, batch: PackedBatch) -> torch.Tensor:
        """Forward one batch; see :class:`icm_fast.model.forward.batch.Forward`."""
        assert self._pool is not None, "open() comes first"
        assert self._rotary is not None
        ranges = [r for path in batch.ranges for r in path]
        offsets = np.cumsum([0, *(len(path) for path in batch.ranges)])
        embedding = self._model.get_input_embeddings()
        hidden = self._decoder.native.forward(
            self._pool,
            self._rotary,
            embedding(torch.from_numpy(batch.token_ids)).float().numpy(),
            n_tokens=batch.n_tokens,
            own=batch.own,
            range_offsets=offsets,
            range_begin=np.array([begin for begin, _ in ranges], np.int64),
            range_end=np.array([end for _, end in ranges], np.int64),
            wanted=batch.wanted,
        )
        # In float32: the norm returns the dtype of its input.
        normed: torch.Tensor = self._model.base_model.norm(torch.from_numpy(hidden))
        return normed
