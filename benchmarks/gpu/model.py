"""How long one exact U(D) should take on a GPU: bytes and operations of each launch, and tiles.

A launch takes the longest of three times: its operations at the rate that the tiles can reach, its
bytes at the memory's rate, and the keys and values that all tiles gather at the second-level
cache's. What the tiles can reach is the asymptotic rate of the kind of kernel (published
measurements of others' kernels, see ``KERNELS``) times what is lost to rows that a tile has and a
segment does not, to keys that a block has and a row does not see, and to the last wave. What lies
between the products (norms, sums, rotation, pool, activation) takes its bytes' time. Nothing
here was measured on a device; ``benchmarks/gpu`` is where a prediction meets one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.engines.flops import keys_seen
from icm_fast import _core
from icm_fast.model.forward.batch import RangePaths

BYTES = 2
"""Bytes of a bfloat16 number."""

BLOCK_KEYS = 64
"""Keys of a block, which a tile computes with as a whole; of both CUDA kernels at width 128."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device, by its maker's data sheet.

    Attributes:
        name: As people call it.
        flops: Dense bfloat16 tensor-core operations per second.
        bandwidth: Bytes per second of its memory.
        n_sms: Streaming multiprocessors.
        launch_seconds: What a kernel costs before it does anything.
        l2_bandwidth: Bytes per second that its second-level cache gives; where we know of no
            measurement, it never limits.
    """

    name: str
    flops: float
    bandwidth: float
    n_sms: int
    launch_seconds: float = 3e-6
    l2_bandwidth: float = math.inf


# The cost model of OpenXLA (gpu, "Measured H100 L2 bandwidth").
_H100_L2 = 6.65e12

GPUS = {
    "A100": Gpu("A100 80 GB SXM", 312e12, 2039e9, 108),
    "H100": Gpu("H100 SXM", 989e12, 3350e9, 132, l2_bandwidth=_H100_L2),
    "H200": Gpu("H200 SXM", 989e12, 4800e9, 132, l2_bandwidth=_H100_L2),
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

    def element_work(self, *, own: bool) -> tuple[int, int]:
        """Bytes per token, and launches, of all in a layer that is neither product nor attention.

        Norms, residual sums, rotary positions, the write to the pool, the activation: by our
        kernels, or by the operators that transformers' layers call one by one. (The latter was
        compared with what transformers 5.23 dispatches for Llama-3.1-8B: 32 operations, 599,104
        bytes.)
        """
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        if own:
            rotated = 2 * queries + 4 * keys + 2 * self.head_dim
            return BYTES * (8 * self.hidden + rotated + 3 * self.intermediate), 4
        # A norm passes through float32: 36 bytes for each feature in eight launches.
        norms = (2 * 18 + 2 * 3) * self.hidden
        rotated = 10 * (queries + keys) + 4 * self.head_dim + 4 * keys
        return BYTES * (norms + rotated + 5 * self.intermediate), 32


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
        gathering: Share of ``attention`` that is left for blocks of keys that are gathered row by
            row, for they do not lie in one piece.
    """

    linear: float
    attention: float
    source: str
    gathering: float = 1.0


@dataclass(frozen=True, slots=True)
class Tile:
    """Tile of the attention kernel.

    Attributes:
        rows: Query rows, (token, head of a group) pairs.
        blocks_per_sm: Blocks that one multiprocessor holds, by the compiler's report.
    """

    rows: int
    blocks_per_sm: int


@dataclass(frozen=True, slots=True)
class Kernel:
    """One of our CUDA kernels of attention, at head width 128.

    Attributes:
        tile: Its tile, by benchmarks/gpu/cuda_compile.md.
        rates: What kernels of its kind reach, by name of the GPU.
    """

    tile: Tile
    rates: dict[str, KernelRate]


# mma.sync, as FlashAttention-2 uses it, reaches about half of what wgmma does.
_HOPPER_MMA = KernelRate(
    0.70, 0.40, "FlashAttention-3 (arXiv 2407.08608): 35-40 % for FlashAttention-2 on H100"
)
# Our kernel with wgmma is built like FlashAttention-3 where that reached 661 TFLOP/s on H100 (Table
# 2: width 128, no mask): warps for copies alone, two warpgroups that take turns, and scores that
# become weights while the values' sum goes on; the device's copying unit brings blocks of keys that
# lie in one piece. Two things are unlike it. Blocks with the end of a range or of a tile's keys are
# gathered row by row, and for these we take off a tenth: FlashInfer has gathers in warps of their
# own, too, and its authors put the distance to contiguous keys at "around 10+%"
# (sgl-project/sglang, issue 2172). And a step has 64 keys instead of 128 or 176, so what each step
# costs besides comes more often; nothing is taken off for that. Besides, it rests on machine code
# that was read: ptxas serialises no product, and a step has fewer instructions (some 290 a warp,
# two warps to a scheduler) than its products take cycles (1,024 at the peak rate).
_HOPPER_WGMMA = KernelRate(
    0.70,
    661 / 989,
    "FlashAttention-3 (arXiv 2407.08608, Table 2), 661 TFLOP/s, less a tenth for gathers",
    gathering=0.9,
)

RATES = {
    "A100": KernelRate(
        0.80, 0.70, "FlashAttention-2 (arXiv 2307.08691): up to 73 % of peak, forward, on A100"
    ),
    "H100": _HOPPER_MMA,
    "H200": _HOPPER_MMA,
}

KERNELS = {
    "mma": Kernel(Tile(rows=64, blocks_per_sm=2), RATES),
    "wgmma": Kernel(
        Tile(rows=128, blocks_per_sm=1), {"H100": _HOPPER_WGMMA, "H200": _HOPPER_WGMMA}
    ),
}
"""By their instruction; the first one is the default."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Prediction for one batch of segments, all layers together.

    Attributes:
        n_tokens: Tokens of the batch.
        n_segments: Segments of the batch.
        keys_per_token: Keys that a token sees, on average.
        linear_seconds: Matrix products.
        attention_seconds: Attention.
        elementwise_seconds: What our kernels do between the products.
        eager_seconds: The same by transformers' layers.
        attention_share: Attention's operations over its seconds and the chip's peak.
        tile_share: Share of the tiles' rows and keys and of the last wave that does work.
        in_one_piece: Share of the blocks of keys that lie in the pool as one piece.
        gathered: Bytes that all tiles of one layer gather from the second-level cache.
        bound: ``memory``, ``cache`` or ``tensor cores``, for the attention.
    """

    n_tokens: int
    n_segments: int
    keys_per_token: float
    linear_seconds: float
    attention_seconds: float
    elementwise_seconds: float
    eager_seconds: float
    attention_share: float
    tile_share: float
    in_one_piece: float
    gathered: float
    bound: str

    @property
    def seconds(self) -> float:
        """All of ours."""
        return self.linear_seconds + self.attention_seconds + self.elementwise_seconds


def predict(
    plan: _core.TreePlan, shape: Shape, gpu: Gpu, rate: KernelRate, tile: Tile | None = None
) -> Iterator[Launch]:
    """Predict every batch of a plan, in order.

    Args:
        plan: Segments and batches.
        shape: The model's layers.
        gpu: The device.
        rate: What full launches reach.
        tile: Tile of the attention kernel; the default kernel's when absent.
    """
    tile = tile or KERNELS["mma"].tile
    paths = RangePaths(plan)
    for first, last in zip(plan.batch_offsets[:-1], plan.batch_offsets[1:], strict=True):
        segments = plan.batch_segments[first:last]
        tiles = _tiles(plan, segments, shape.heads // shape.kv_heads, tile, paths)
        yield _launch(plan.n_tokens[segments], plan.start[segments], tiles, shape, gpu, rate, tile)


@dataclass(frozen=True, slots=True)
class _Tiles:
    """Tiles of one key-value head.

    Attributes:
        n: How many.
        keys: That they see, all together.
        blocks: Of keys, that they compute with.
        pieces: Those of the blocks that lie in the pool as one piece.
    """

    n: int
    keys: int
    blocks: int
    pieces: int


def _torn_blocks(paths: RangePaths, segment: int) -> IntArray:
    """Numbers, growing, of the context's blocks that hold an end of a range and keys behind it."""
    lengths = [end - begin for begin, end in paths.through(segment)]
    ends = np.cumsum(lengths, dtype=np.int64)[:-1]
    return np.unique(ends[ends % BLOCK_KEYS > 0] // BLOCK_KEYS)


def _tiles(
    plan: _core.TreePlan,
    segments: npt.NDArray[np.int32],
    group: int,
    tile: Tile,
    paths: RangePaths,
) -> _Tiles:
    """The tiles of a batch, uncut."""
    n = keys = blocks = pieces = 0
    for segment in map(int, segments):
        n_rows = int(plan.n_tokens[segment]) * group
        last_rows = np.minimum(np.arange(tile.rows, n_rows + tile.rows, tile.rows), n_rows) - 1
        seen = int(plan.start[segment]) + last_rows // group + 1
        whole = seen // BLOCK_KEYS
        n += len(seen)
        keys += int(seen.sum())
        blocks += int((-(-seen // BLOCK_KEYS)).sum())
        pieces += int((whole - np.searchsorted(_torn_blocks(paths, segment), whole)).sum())
    return _Tiles(n, keys, blocks, pieces)


def _launch(
    n_tokens: IntArray,
    start: IntArray,
    tiles: _Tiles,
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
    n_tiles = tiles.n * shape.kv_heads
    at_once = gpu.n_sms * tile.blocks_per_sm
    waves = math.ceil(n_tiles / at_once)
    computed = tiles.blocks * BLOCK_KEYS * tile.rows * shape.kv_heads
    full = keys * shape.heads / computed
    # With a split over key ranges a launch of few tiles fills the chip all the same.
    last_wave = n_tiles / (waves * at_once) if waves > 1 else 1.0
    share = full * last_wave
    in_one_piece = tiles.pieces / tiles.blocks
    slower = in_one_piece + (1.0 - in_one_piece) / rate.gathering
    compute = operations / (gpu.flops * rate.attention * share) * slower
    # Keys and values are read from memory once per segment, queries and results once.
    moved = 2 * shape.kv_heads * shape.head_dim * int((start + n_tokens).sum())
    moved += 2 * shape.heads * shape.head_dim * tokens
    memory = moved * BYTES / gpu.bandwidth
    # A tile gathers the keys that its last row sees.
    gathered = 2 * shape.kv_heads * shape.head_dim * BYTES * float(tiles.keys)
    times = {
        "tensor cores": compute,
        "memory": memory,
        "cache": gathered / gpu.l2_bandwidth,
    }
    bound = max(times, key=times.__getitem__)
    attention = times[bound] + gpu.launch_seconds
    ours, eager = (
        shape.layers * (tokens * n_bytes / gpu.bandwidth + n_launches * gpu.launch_seconds)
        for n_bytes, n_launches in (shape.element_work(own=own) for own in (True, False))
    )
    return Launch(
        n_tokens=tokens,
        n_segments=len(n_tokens),
        keys_per_token=keys / tokens,
        linear_seconds=shape.layers * (linear + gpu.launch_seconds),
        attention_seconds=shape.layers * attention,
        elementwise_seconds=ours,
        eager_seconds=eager,
        attention_share=operations / (attention * gpu.flops),
        tile_share=share,
        in_one_piece=in_one_piece,
        gathered=gathered,
        bound=bound,
    )
