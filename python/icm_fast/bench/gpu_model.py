"""How long one exact U(D) should take on a GPU: bytes and operations of each launch, and tiles.

A launch takes the longest of three times: its operations at the rate that the tiles can reach, its
bytes at the memory's rate, and one wave of the chip. What the tiles can reach is the asymptotic
rate of the kind of kernel (published measurements, see ``KernelRate``) times what is lost to rows
that a tile has and a segment does not, and to the last wave. Nothing here was measured on a device;
``benchmarks/gpu`` is where a prediction meets one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from icm_fast import _core
from icm_fast.bench.flops import keys_seen

BYTES = 2
"""Bytes of a bfloat16 number."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device, by its maker's data sheet.

    Attributes:
        name: As people call it.
        flops: Dense bfloat16 tensor-core operations per second.
        bandwidth: Bytes per second of its memory.
        n_sms: Streaming multiprocessors.
        launch_seconds: What a kernel costs before it does anything.
    """

    name: str
    flops: float
    bandwidth: float
    n_sms: int
    launch_seconds: float = 3e-6


GPUS = {
    "A100": Gpu("A100 80 GB SXM", 312e12, 2039e9, 108),
    "H100": Gpu("H100 SXM", 989e12, 3350e9, 132),
    "H200": Gpu("H200 SXM", 989e12, 4800e9, 132),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """The layers of a decoder, by its configuration file."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's matrices."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate


SHAPES = {
    "llama-3.1-8b": Shape("Llama-3.1-8B", 4096, 32, 32, 8, 128, 14336),
    "llama-3.1-70b": Shape("Llama-3.1-70B", 8192, 80, 64, 8, 128, 28672),
}


@dataclass(frozen=True, slots=True)
class KernelRate:
    """Share of the tensor cores' peak that long, full launches of a kind of kernel reach.

    Attributes:
        linear: Matrix products of a vendor library.
        attention: Fused attention with head width 128.
        source: Where the shares are from.
    """

    linear: float
    attention: float
    source: str


# mma.sync, as Triton without warp specialisation and FlashAttention-2 use it, reaches about half of
# what wgmma does.
_HOPPER = KernelRate(
    0.70, 0.40, "FlashAttention-3 (arXiv 2407.08608): 35-40 % for FlashAttention-2 on H100"
)

RATES = {
    "A100": KernelRate(
        0.80, 0.70, "FlashAttention-2 (arXiv 2307.08691): up to 73 % of peak, forward, on A100"
    ),
    "H100": _HOPPER,
    "H200": _HOPPER,
}


@dataclass(frozen=True, slots=True)
class Tile:
    """Tile of the attention kernel.

    Attributes:
        rows: Query rows, (token, head of a group) pairs.
        blocks_per_sm: Blocks that one multiprocessor holds, by the compiler's report.
    """

    rows: int = 128
    blocks_per_sm: int = 1


@dataclass(frozen=True, slots=True)
class Launch:
    """Prediction for one batch of segments, all layers together.

    Attributes:
        n_tokens: Tokens of the batch.
        n_segments: Segments of the batch.
        keys_per_token: Keys that a token sees, on average.
        linear_seconds: Matrix products.
        attention_seconds: Attention.
        attention_share: Attention's operations over its seconds and the chip's peak.
        tile_share: Share of the tiles' rows and of the last wave that does work.
        bound: ``memory`` or ``tensor cores``, for the attention.
    """

    n_tokens: int
    n_segments: int
    keys_per_token: float
    linear_seconds: float
    attention_seconds: float
    attention_share: float
    tile_share: float
    bound: str

    @property
    def seconds(self) -> float:
        """Both."""
        return self.linear_seconds + self.attention_seconds


def predict(
    plan: _core.TreePlan, shape: Shape, gpu: Gpu, rate: KernelRate, tile: Tile | None = None
) -> Iterator[Launch]:
    """Predict every batch of a plan, in order.

    Args:
        plan: Segments and batches.
        shape: The model's layers.
        gpu: The device.
        rate: What full launches reach.
        tile: Tile of the attention kernel; the default one when absent.
    """
    tile = tile or Tile()
    for first, last in zip(plan.batch_offsets[:-1], plan.batch_offsets[1:], strict=True):
        segments = plan.batch_segments[first:last]
        yield _launch(plan.n_tokens[segments], plan.start[segments], shape, gpu, rate, tile)


def _launch(
    n_tokens: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    start: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    shape: Shape,
    gpu: Gpu,
    rate: KernelRate,
    tile: Tile,
) -> Launch:
    tokens = int(n_tokens.sum())
    weights = shape.layer_weights
    linear = max(2 * weights * tokens / (gpu.flops * rate.linear), weights * BYTES / gpu.bandwidth)
    keys = keys_seen(start, n_tokens, None)
    operations = 4 * shape.heads * shape.head_dim * keys
    rows = n_tokens * (shape.heads // shape.kv_heads)
    tiles = -(-rows // tile.rows)
    n_tiles = int(tiles.sum()) * shape.kv_heads
    at_once = gpu.n_sms * tile.blocks_per_sm
    waves = math.ceil(n_tiles / at_once)
    full = float(rows.sum() / (tiles.sum() * tile.rows))
    # With a split over key ranges a launch of few tiles fills the chip all the same.
    last_wave = n_tiles / (waves * at_once) if waves > 1 else 1.0
    share = full * last_wave
    compute = operations / (gpu.flops * rate.attention * share)
    # Keys and values are read from memory once per segment, queries and results once.
    moved = 2 * shape.kv_heads * shape.head_dim * int((start + n_tokens).sum())
    moved += 2 * shape.heads * shape.head_dim * tokens
    memory = moved * BYTES / gpu.bandwidth
    attention = max(compute, memory) + gpu.launch_seconds
    return Launch(
        n_tokens=tokens,
        n_segments=len(n_tokens),
        keys_per_token=keys / tokens,
        linear_seconds=shape.layers * (linear + gpu.launch_seconds),
        attention_seconds=shape.layers * attention,
        attention_share=operations / (attention * gpu.flops),
        tile_share=share,
        bound="memory" if memory > compute else "tensor cores",
    )
