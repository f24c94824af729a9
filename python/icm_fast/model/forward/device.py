"""Packed batches through a decoder's weights and our kernels, on devices that have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from icm_fast.kernels.add_rms_norm import select_add_rms_norm
from icm_fast.kernels.gated_activation import select_gated_activation
from icm_fast.kernels.one_copy import one_copy
from icm_fast.kernels.rope_kv_write import select_rope_kv_write
from icm_fast.kernels.tree_attention import AttentionWork
from icm_fast.kernels.tree_attention.select import select_tree_attention
from icm_fast.kernels.tree_attention.work import TreeAttention
from icm_fast.kernels.triton_devices import DTYPES, NEEDS_TRITON, has_triton_kernels
from icm_fast.model.forward.batch import PackedBatch, rows_of
from icm_fast.model.forward.decoder_layers import (
    DecoderLayer,
    decoder_of,
    rotary_tables,
    unknown_because,
)
from icm_fast.model.forward.halving import PooledForward
from icm_fast.model.forward.stacked import StackedProjections
from icm_fast.model.loaded import LoadedModel
from icm_fast.model.sharing import turn_of


def serves(loaded: LoadedModel) -> bool:
    """Whether a model should run this way.

    Its family must be known, and all its weights be on one device with Triton kernels, in one dtype
    that these support.
    """
    return not unserved_because(loaded)


def unserved_because(loaded: LoadedModel) -> str:
    """Why a model does not run this way; empty where it does."""
    tensors = list(loaded.model.parameters())
    dtypes = {t.dtype for t in tensors}
    if {t.device for t in tensors} != {loaded.device}:
        return "its weights are spread over several devices"
    if len(dtypes) > 1 or not dtypes <= DTYPES:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        return f"the kernels take one dtype of weights, float32, bfloat16 or float16, not {names}"
    if not has_triton_kernels(loaded.device):
        return f"{NEEDS_TRITON}, and {loaded.device} has none"
    return unknown_because(loaded.model)


@dataclass(frozen=True, slots=True)
class _Pass:
    """What every layer of one forward pass reads.

    Attributes:
        work: The segments.
        slots: ``[n_tokens]`` int64, pool slot of each row.
        rotary: Cosines and sines of each kind, ``[n_tokens, rotary_dim]``.
        wanted: ``[n_wanted]`` int64, rows whose last states are returned.
    """

    work: AttentionWork
    slots: torch.Tensor
    rotary: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    wanted: torch.Tensor


class DeviceForward(PooledForward):
    """The layers of a known family: linear layers by torch, everything else by our kernels.

    Query, key and value are one product, and so are gate and up. It runs on any device; without
    Triton kernels, their definitions are used.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        weight = loaded.model.get_input_embeddings().weight
        super().__init__(weight.device)
        self._model = loaded.model
        self._decoder = decoder_of(loaded.model)
        layers = self._decoder.layers
        with turn_of(loaded.model):
            self._heads = [StackedProjections(layer.heads) for layer in layers]
            self._gates = [StackedProjections(layer.units) for layer in layers]
        self._attention: TreeAttention | None = None
        self._like = weight.new_empty(0)
        self._add_norm = select_add_rms_norm(weight.device, weight.dtype)
        self._gated = select_gated_activation(weight.device, weight.dtype)
        self._rope_write = select_rope_kv_write(weight.device, weight.dtype)
        self._tables: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def kernels(self) -> dict[str, Callable[..., object]]:
        """Implementations of all operations but attention, whose choice depends on tensors."""
        return {
            "norms": self._add_norm,
            "gated units": self._gated,
            "rotary positions": self._rope_write,
        }

    def open(self, pool_tokens: int, longest_context: int, *, keep: bool = False) -> None:
        """Make room for a plan, and its rotary tables."""
        super().open(pool_tokens, longest_context, keep=keep)
        self._attention = None
        kinds = self._decoder.rotary_kinds
        with turn_of(self._model):  # some kinds of positions change with every call
            for stacked in (*self._heads, *self._gates):
                stacked.refresh()
            self._tables = rotary_tables(self._model, kinds, longest_context, self._like)

    def _run(self, batch: PackedBatch) -> torch.Tensor:
        rows = rows_of(batch)
        positions, slots, wanted, token_ids = one_copy(
            [rows.positions, rows.slots, rows.wanted, batch.token_ids], self._like.device
        )
        rotary = tuple((cosine[positions], sine[positions]) for cosine, sine in self._tables)
        step = _Pass(rows.work, slots, rotary, wanted)
        # Called as a module: some families scale their embedding in it.
        x: torch.Tensor = self._model.get_input_embeddings()(token_ids)
        residual: torch.Tensor | None = None
        for number, layer in enumerate(self._decoder.layers):
            x, residual = self._layer(number, layer, x, residual, step)
        return self._norm(self._model.base_model.norm.weight, x, residual)[0]

    def _layer(
        self,
        number: int,
        layer: DecoderLayer,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        step: _Pass,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One layer.

        Args:
            number: Its number.
            layer: Its weights and settings.
            x: ``[n_tokens, hidden_size]``, output of the previous layer, not yet added.
            residual: ``[n_tokens, hidden_size]``, the sum of all outputs before it, or None.
            step: The forward pass.

        Returns:
            ``x`` and ``residual`` for the next layer, whose first norm adds them. From the last
            layer, only the wanted rows: ``[n_wanted, hidden_size]``.
        """
        states, residual = self._norm(layer.norms["input_norm"], x, residual)
        heads = self._attend(number, layer, states, step)
        if number == len(self._decoder.layers) - 1:
            # All keys and values are written, and only the wanted rows' states are still needed.
            heads, residual = heads[step.wanted], residual[step.wanted]
        x = self._norm_after(layer, "post_attention_norm", layer.output(heads))
        states, residual = self._norm(layer.norms["feed_forward_norm"], x, residual)
        x = layer.down(self._units(number, states))
        return self._norm_after(layer, "post_feed_forward_norm", x), residual

    def _attend(
        self, number: int, layer: DecoderLayer, states: torch.Tensor, step: _Pass
    ) -> torch.Tensor:
        """Attention of one layer, ``[n_tokens, n_heads * head_dim]`` from normed states."""
        query, key, value = (self._by_head(part) for part in self._heads[number](states))
        query = self._head_norm(layer, "query_norm", query)
        key = self._head_norm(layer, "key_norm", key)
        keys, values = self._store.pools(number, key, value)
        rotary = step.rotary[layer.rotary]
        query = self._rope_write(query, key, value, *rotary, keys, values, step.slots)
        if self._attention is None:  # once for all layers of a plan: the choice looks at files
            self._attention = select_tree_attention(query, values, softcap=layer.softcap)
        out = self._attention(
            query,
            keys,
            values,
            step.work,
            scaling=layer.scaling,
            sliding_window=layer.window,
            softcap=layer.softcap,
        )
        return out.transpose(0, 1).flatten(1)

    def _units(self, number: int, states: torch.Tensor) -> torch.Tensor:
        """The gated units, ``[n_tokens, intermediate_size]``; gate and up are freed on return."""
        gate, up = self._gates[number](states)
        return self._gated(gate, up, self._decoder.activation)

    def _by_head(self, rows: torch.Tensor) -> torch.Tensor:
        """``[n_heads, n_tokens, head_dim]``, a view of ``[n_tokens, n_heads * head_dim]``."""
        return rows.unflatten(1, (-1, self._decoder.head_dim)).transpose(0, 1)

    def _head_norm(self, layer: DecoderLayer, name: str, heads: torch.Tensor) -> torch.Tensor:
        """The norm of each head, if the layer has one: ``[n_heads, n_tokens, head_dim]``."""
        if name not in layer.norms:
            return heads
        by_token = heads.transpose(0, 1)
        normed, _ = self._norm(layer.norms[name], by_token.flatten(0, 1), None)
        return normed.view(by_token.shape).transpose(0, 1)

    def _norm_after(self, layer: DecoderLayer, name: str, x: torch.Tensor) -> torch.Tensor:
        """The norm after one half of a layer, if the layer has one."""
        return self._norm(layer.norms[name], x, None)[0] if name in layer.norms else x

    def _norm(
        self, weight: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        decoder = self._decoder
        return self._add_norm(x, residual, weight, decoder.norm_eps, plus_one=decoder.norm_plus_one)
