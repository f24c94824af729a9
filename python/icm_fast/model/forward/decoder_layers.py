"""The parts of the decoders that we run ourselves, read from transformers' modules.

All have the same layers: norm, attention with rotary positions, norm, gated units. What differs
between the families is described here, for every forward implementation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel

from icm_fast.model.decoder_config import DecoderConfig

_GEMMA = frozenset({"gemma2", "gemma3_text"})
FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "phi3"}) | _GEMMA
"""Their ``model_type``."""

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
# Our names of the norms, and those of transformers.
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
_HEAD_NORMS = {"query_norm": "q_norm", "key_norm": "k_norm"}


class KnownConfig(DecoderConfig, Protocol):
    """What the configurations of these families have in common."""

    @property
    def num_key_value_heads(self) -> int:
        """Heads of keys and values."""

    @property
    def intermediate_size(self) -> int:
        """Gated units of a layer."""

    @property
    def rms_norm_eps(self) -> float:
        """Added to the mean square in every norm."""


@dataclass(frozen=True, slots=True)
class Projections:
    """Linear layers of the same input: one per projection, or one for all of them (phi3).

    Attributes:
        linears: The model's own layers.
        widths: Outputs of each projection.
    """

    linears: tuple[torch.nn.Linear, ...]
    widths: tuple[int, ...]

    def parts(self) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Weight ``[width, hidden_size]`` and bias ``[width]``, or None, of each projection."""
        if self._are_stacked():  # :func:`is_known` requires that it has no bias
            return [(weight, None) for weight in self.linears[0].weight.split(self.widths)]
        return [(linear.weight, linear.bias) for linear in self.linears]

    def _are_stacked(self) -> bool:
        return len(self.linears) < len(self.widths)


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One layer; the tensors are the model's own.

    Attributes:
        norms: Weights by our names: ``input_norm`` and ``feed_forward_norm`` before the two halves,
            and where the family has them ``post_attention_norm`` and ``post_feed_forward_norm``
            after these, ``query_norm`` and ``key_norm`` on each head.
        heads: Query, key and value.
        output: From the heads' values to the hidden size.
        units: Gate and up.
        down: From the units to the hidden size.
        rotary: Index of its rotary table in the decoder.
        window: Sliding window, None for full attention.
        scaling: Factor on the dot products.
        softcap: Scores become ``softcap * tanh(score / softcap)``; None for no cap.
    """

    norms: dict[str, torch.Tensor]
    heads: Projections
    output: torch.nn.Linear
    units: Projections
    down: torch.nn.Linear
    rotary: int
    window: int | None
    scaling: float
    softcap: float | None


@dataclass(frozen=True, slots=True)
class Decoder:
    """All layers of a model and what they share.

    Attributes:
        layers: In order.
        rotary_kinds: Layer type of each rotary table; None if all layers share one.
        n_heads: Query heads.
        n_kv_heads: Heads of keys and values.
        head_dim: Width of every head.
        activation: ``silu`` or ``gelu_tanh``, on the gate.
        norm_eps: Added to the mean square in every norm.
        norm_plus_one: Whether norms multiply by one plus their weight, in float32 (Gemma).
    """

    layers: tuple[DecoderLayer, ...]
    rotary_kinds: tuple[str | None, ...]
    n_heads: int
    n_kv_heads: int
    head_dim: int
    activation: str
    norm_eps: float
    norm_plus_one: bool


def is_known(model: PreTrainedModel) -> bool:
    """Whether :func:`decoder_of` describes a model fully: its family and settings are known.

    Models with wrapped layers, such as the live adapters of peft, are not.
    """
    return not unknown_because(model)


def unknown_because(model: PreTrainedModel) -> str:
    """What :func:`decoder_of` does not know of a model; empty where it knows all."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"the family {config.model_type} has no decoder here"
    if (activation := _activation(config)) not in _ACTIVATIONS:
        return f"the activation {activation} has no kernel here"
    for part in linear_parts(model):
        if type(part) is not torch.nn.Linear:
            return f"its linear layers are wrapped ({type(part).__name__})"
    if not all(_known_biases(layer) for layer in model.base_model.layers):
        return "some of its linear layers have biases of their own"
    return ""


def linear_parts(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The linear layers of all layers of a model of these families."""
    return [part for layer in model.base_model.layers for _, part in _linear_parts(layer)]


def _linear_parts(layer: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    for owner in (layer.self_attn, layer.mlp):
        for name, part in owner.named_children():
            if name.endswith("_proj"):
                yield name, part


def _known_biases(layer: torch.nn.Module) -> bool:
    """Whether queries, keys and values have biases all or none, and nothing else has one."""
    biased = {name for name, part in _linear_parts(layer) if part.bias is not None}
    return biased in (set(), {"q_proj", "k_proj", "v_proj"})


def _activation(config: DecoderConfig) -> str:
    gemma = getattr(config, "hidden_activation", None)
    return str(gemma or getattr(config, "hidden_act", None))


def decoder_of(model: PreTrainedModel) -> Decoder:
    """Describe a model that :func:`is_known`."""
    config, layers = model.config, model.base_model.layers
    types = getattr(config, "layer_types", None) or [None] * len(layers)
    kinds: tuple[str | None, ...] = (None,)
    if config.model_type == "gemma3_text":
        kinds = tuple(sorted(set(types)))
    return Decoder(
        layers=tuple(
            _layer(config, layer, kind, kinds.index(kind) if kind in kinds else 0)
            for layer, kind in zip(layers, types, strict=True)
        ),
        rotary_kinds=kinds,
        n_heads=int(config.num_attention_heads),
        n_kv_heads=int(config.num_key_value_heads),
        head_dim=int(layers[0].self_attn.head_dim),
        activation=_ACTIVATIONS[_activation(config)],
        norm_eps=float(config.rms_norm_eps),
        norm_plus_one=config.model_type in _GEMMA,
    )


def _layer(
    config: KnownConfig, layer: torch.nn.Module, kind: str | None, rotary: int
) -> DecoderLayer:
    attention, mlp = layer.self_attn, layer.mlp
    queries = int(config.num_attention_heads * attention.head_dim)
    keys = int(config.num_key_value_heads * attention.head_dim)
    units = int(config.intermediate_size)
    # Gemma 3 has the setting too, but its attention ignores it.
    softcap = getattr(config, "attn_logit_softcapping", None)
    return DecoderLayer(
        norms=_norms(config, layer),
        heads=Projections(
            _linears(attention, "qkv_proj", ("q_proj", "k_proj", "v_proj")), (queries, keys, keys)
        ),
        output=attention.o_proj,
        units=Projections(_linears(mlp, "gate_up_proj", ("gate_proj", "up_proj")), (units, units)),
        down=mlp.down_proj,
        rotary=rotary,
        window=_window(config, kind),
        scaling=float(attention.scaling),
        softcap=(softcap or None) if config.model_type == "gemma2" else None,
    )


def _norms(config: KnownConfig, layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    names = _GEMMA_NORMS if config.model_type in _GEMMA else _NORMS
    norms = {name: getattr(layer, theirs).weight for name, theirs in names.items()}
    for name, theirs in _HEAD_NORMS.items():
        if (norm := getattr(layer.self_attn, theirs, None)) is not None:
            norms[name] = norm.weight
    return norms


def _linears(
    owner: torch.nn.Module, stacked: str, names: tuple[str, ...]
) -> tuple[torch.nn.Linear, ...]:
    names = (stacked,) if hasattr(owner, stacked) else names
    return tuple(getattr(owner, name) for name in names)


def _window(config: DecoderConfig, kind: str | None) -> int | None:
    if kind == "full_attention":
        return None
    return int(getattr(config, "sliding_window", None) or 0) or None


def rotary_tables(
    model: PreTrainedModel, kinds: tuple[str | None, ...], n_positions: int, like: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Cosines and sines of each kind, ``[n_positions, rotary_dim]``, as the model computes them.

    Both halves of ``rotary_dim`` are equal. Rebuild them for each plan: some kinds of rotary
    positions depend on the longest context.

    Args:
        model: The model.
        kinds: ``Decoder.rotary_kinds``.
        n_positions: Tokens of the longest context.
        like: A tensor with the dtype and the device that the tables should have.
    """
    positions = torch.arange(n_positions, device=like.device)[None]
    tables = []
    for kind in kinds:
        cosine, sine = model.base_model.rotary_emb(
            like, positions, *(() if kind is None else (kind,))
        )
        tables.append((cosine[0], sine[0]))
    return tables
