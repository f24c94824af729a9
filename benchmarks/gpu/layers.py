"""Time one exact U(D) on a device layer by layer, next to the prediction of the model.

One layer of the model's shape with random weights represents all: its matrix products and its
attention are timed for every batch of a plan and multiplied by the number of layers. So a model of
any size can be measured in the memory of one layer. The products are those of the device's forward
pass (one for query, key and value, one for gate and up), but for the last layer, which goes on with
few rows. Norms, rotation and activation are not timed: ``python -m benchmarks.gpu first`` times
whole passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from benchmarks.gpu.model import Gpu, KernelRate, Shape, Tile, predict
from icm_fast import _core
from icm_fast.kernels.tree_attention import AttentionWork, sdpa
from icm_fast.kernels.tree_attention.select import select_tree_attention
from icm_fast.kernels.tree_attention.work import TreeAttention
from icm_fast.model.forward.tile_search import batch_work, seconds


@dataclass(frozen=True, slots=True)
class Measured:
    """One batch: seconds of all layers, measured and predicted.

    Attributes:
        n_tokens: Tokens of the batch.
        n_segments: Its segments.
        linear_seconds: Matrix products.
        attention_seconds: Attention.
        predicted_linear: Prediction for the matrix products.
        predicted_attention: Prediction for the attention.
        error: Largest difference of the attention from torch's, relative to the largest value.
    """

    n_tokens: int
    n_segments: int
    linear_seconds: float
    attention_seconds: float
    predicted_linear: float
    predicted_attention: float
    error: float


def measure(
    plan: _core.TreePlan,
    shape: Shape,
    gpu: Gpu,
    rate: KernelRate,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
    tile: Tile | None = None,
) -> Iterator[Measured]:
    """Time every batch of a plan on a device.

    Args:
        plan: Segments and batches.
        shape: The model's layers.
        gpu: Data of the device, for the prediction.
        rate: Rates of full launches there, for the prediction.
        device: Where to run.
        dtype: Dtype of weights and activations.
        tile: Tile of the attention kernel, for the prediction; by default that of the default
            kernel.
    """
    layer = _Layer(shape, int(plan.pool_tokens), device, dtype)
    for batch, launch in enumerate(predict(plan, shape, gpu, rate, tile)):
        work = batch_work(plan, batch)
        hidden = layer.random(work.n_tokens, shape.hidden)
        query = layer.random(shape.heads, work.n_tokens, shape.head_dim)
        ours = layer.attention(select_tree_attention(query, layer.values), query, work)
        expected = layer.attention(sdpa.tree_attention, query, work)().float()
        error = (ours().float() - expected).abs().max() / expected.abs().max()
        yield Measured(
            n_tokens=work.n_tokens,
            n_segments=len(work.segments),
            linear_seconds=shape.layers * seconds(layer.products(hidden), device),
            attention_seconds=shape.layers * seconds(ours, device),
            predicted_linear=launch.linear_seconds,
            predicted_attention=launch.attention_seconds,
            error=float(error),
        )


class _Layer:
    """Weights and key-value pools of one layer, random."""

    def __init__(
        self, shape: Shape, pool_tokens: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._device, self._dtype = device, dtype
        self._generator = torch.Generator(device).manual_seed(0)
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self._weights = [
            self.random(rows, columns) / columns**0.5
            for rows, columns in (
                (queries + 2 * keys, shape.hidden),
                (shape.hidden, queries),
                (2 * shape.intermediate, shape.hidden),
                (shape.hidden, shape.intermediate),
            )
        ]
        self.keys = self.random(shape.kv_heads, pool_tokens, shape.head_dim)
        self.values = self.random(shape.kv_heads, pool_tokens, shape.head_dim)
        self._queries = queries

    def random(self, *shape: int) -> torch.Tensor:
        """Normally distributed numbers."""
        return torch.randn(
            *shape, generator=self._generator, device=self._device, dtype=self._dtype
        )

    def products(self, hidden: torch.Tensor) -> Callable[[], torch.Tensor]:
        """All matrix products of the layer for ``hidden``, ``[tokens, hidden]``."""
        qkv, out, up, down = self._weights

        def run() -> torch.Tensor:
            attended = (hidden @ qkv.T)[:, : self._queries] @ out.T
            wide = attended @ up.T
            return wide[:, : wide.shape[1] // 2] @ down.T

        return run

    def attention(
        self, attend: TreeAttention, query: torch.Tensor, work: AttentionWork
    ) -> Callable[[], torch.Tensor]:
        """Attention of ``query``, ``[heads, tokens, head_dim]``, over the pools."""
        scaling = float(query.shape[-1] ** -0.5)
        return lambda: attend(query, self.keys, self.values, work, scaling=scaling)
