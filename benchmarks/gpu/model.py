"""Predicted time of one exact U(D) on a GPU, from the bytes, operations and tiles of each launch.

A launch takes the longest of three times: its operations at the rate that the tiles can reach, its
bytes at the rate of the memory, and the keys and values that all tiles gather at the rate of the
L2 cache. The tiles' rate is the asymptotic rate of the kind of kernel (published measurements of
similar kernels, see ``KERNELS``), reduced by the empty rows of tiles, by the keys of a block that a
row does not see, and by the last wave. Everything between the products (norms, sums, rotation,
pool, activation) takes the time of its bytes. Nothing here was measured on a device;
``python -m benchmarks.gpu`` compares the prediction with one.

Times are lower bounds: launches follow each other without a gap, and nothing is counted for the
host (plans, tables, their copies to the device), the embedding, the label head, or the start.
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
"""Keys of a block, the unit of a tile's computation; in both CUDA kernels at width 128."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device, by its vendor's data sheet.

    Attributes:
        name: Its usual name.
        flops: Dense bfloat16 tensor-core operations per second.
        bandwidth: Bytes per second of its memory.
        n_sms: Streaming multiprocessors.
        launch_seconds: Overhead of a launch.
        l2_bandwidth: Bytes per second of its L2 cache; infinite if no measurement is known.
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
    """The layers of a decoder, from its configuration file."""

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
        """Bytes per token, and launches, of everything in a layer except products and attention.

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
        source: Source of the shares.
        gathering: Share of ``attention`` that remains for blocks of keys that are gathered row by
            row because they are not contiguous.
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
        blocks_per_sm: Blocks per multiprocessor, by the compiler's report.
    """

    rows: int
    blocks_per_sm: int


@dataclass(frozen=True, slots=True)
class Kernel:
    """One of our CUDA kernels of attention, at head width 128.

    Attributes:
        tile: Its tile; see benchmarks/gpu/cuda_compile.md.
        rates: What kernels of its kind reach, by GPU.
    """

    tile: Tile
    rates: dict[str, KernelRate]


# mma.sync, as FlashAttention-2 uses it, reaches about half of what wgmma does.
_HOPPER_MMA = KernelRate(
    0.70, 0.40, "FlashAttention-3 (arXiv 2407.08608): 35-40 % for FlashAttention-2 on H100"
)
# Our wgmma kernel is built like FlashAttention-3 where that reached 661 TFLOP/s on H100 (Table 2:
# width 128, no mask): dedicated copy warps, two alternating warpgroups, a softmax that overlaps
# with the products of the values, and the tensor memory accelerator for contiguous blocks of keys.
# Two things differ. Blocks with the end of a range or of a tile's keys are gathered row by row, for
# which we subtract a tenth: FlashInfer gathers in dedicated warps too, and its authors put the
# distance to contiguous keys at "around 10+%" (sgl-project/sglang, issue 2172). And a step has 64
# keys instead of 128 or 176, so the fixed cost of a step occurs more often; nothing is subtracted
# for that. The machine code was also read: ptxas serialises no product, and a step has fewer
# instructions (about 290 per warp, two warps per scheduler) than its products take cycles (1,024 at
# the peak rate).
_HOPPER_WGMMA = KernelRate(
    0.70,
    661 / 989,
    "FlashAttention-3 (arXiv 2407.08608, Table 2), 661 TFLOP/s, minus a tenth for gathers",
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
"""Kernels by their instruction; the first is the default."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Prediction for one batch of segments, over all layers.

    Attributes:
        n_tokens: Tokens of the batch.
        n_segments: Segments of the batch.
        keys_per_token: Keys that a token sees, on average.
        linear_seconds: Matrix products.
        attention_seconds: Attention.
        elementwise_seconds: Everything between the products, by our kernels.
        eager_seconds: The same by transformers' layers.
        attention_share: Attention's operations over its seconds and the chip's peak.
        tile_share: Share of the tiles' rows and keys and of the last wave that does useful work.
        in_one_piece: Share of the blocks of keys that are contiguous in the pool.
        gathered: Bytes that all tiles of one layer gather from the L2 cache.
        bound: ``memory``, ``cache`` or ``tensor cores``: what limits the attention.
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
        """Total with our kernels."""
        return self.linear_seconds + self.attention_seconds + self.elementwise_seconds


def predict(
    plan: _core.TreePlan, shape: Shape, gpu: Gpu, rate: KernelRate, tile: Tile | None = None
) -> Iterator[Launch]:
    """Predict every batch of a plan, in order.

    Args:
        plan: Segments and batches.
        shape: The model's layers.
        gpu: The device.
        rate: Rates of full launches.
        tile: Tile of the attention kernel; by default, that of the default kernel.
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
        n: Number of tiles.
        keys: Keys that they see, in total.
        blocks: Blocks of keys that they compute with.
        pieces: Blocks that are contiguous in the pool.
    """

    n: int
    keys: int
    blocks: int
    pieces: int


def _torn_blocks(paths: RangePaths, segment: int) -> IntArray:
    """Ascending numbers of the context's blocks that contain an end of a range and later keys."""
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
    """The tiles of a batch, without splits."""
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
    # Nothing in the package splits a tile's keys, so a launch of few tiles leaves the chip idle.
    last_wave = n_tiles / (waves * at_once)
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
