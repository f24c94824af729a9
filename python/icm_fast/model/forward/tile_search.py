"""Find the fastest tiles of the Triton attention on a device, by timing them on a whole tree.

A tile is compared with torch's attention before it is timed. Long and short segments have separate
tiles, so each kind is timed separately: on the batches of one exact U(D), and on the same segments
cut to their first rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import NamedTuple

import torch

from icm_fast._core import TreePlan
from icm_fast.errors import InputError, first_line
from icm_fast.kernels.tree_attention import AttentionWork, SegmentWork, sdpa
from icm_fast.kernels.tree_attention.tiles import SHORT_ROWS, Tile, TilePair, padded
from icm_fast.kernels.tree_attention.tuned_tiles import HeadShape
from icm_fast.kernels.tree_attention.work import TreeAttention
from icm_fast.model.forward.batch import RangePaths
from icm_fast.plan.uniform import uniform_plan

LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 1e-2}
"""Largest difference from torch's attention, relative to the largest value."""

LONG_TILES = tuple(
    Tile(*sizes) for sizes in product((16, 32, 64, 128), (16, 32, 64, 128), (4, 8), (3, 5))
)
SHORT_TILES = tuple(tile for tile in LONG_TILES if tile.block_m == SHORT_ROWS)

_FATAL = {"OutOfMemoryError", "AcceleratorError"}
"""Errors of torch that are not a tile's fault; by name, because older torch lacks the second."""


def is_fatal(error: BaseException) -> bool:
    """Whether the device cannot be used again in this process."""
    return type(error).__name__ in _FATAL


_MAX_MULTIPLICATIONS = 4096
"""Per thread in one float32 product: they are unrolled, and more take minutes to compile."""


@dataclass(frozen=True, slots=True)
class TreeSize:
    """The tree that tiles are timed on.

    Attributes:
        n: Number of examples.
        demonstration: Tokens of an example with its label.
        query: Tokens of an example without it.
        batch_tokens: Maximum number of tokens of a batch.
    """

    n: int = 64
    demonstration: int = 43
    query: int = 40
    batch_tokens: int = 16384


@dataclass(frozen=True, slots=True)
class TimedTile:
    """One tile and its time.

    Attributes:
        tile: Its sizes.
        seconds: Time of all batches; None if the tile cannot be used.
        reason: Why it cannot be used; otherwise empty.
    """

    tile: Tile
    seconds: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Tuning:
    """The result of a search.

    Attributes:
        pair: The fastest tiles.
        long: The fastest tile for long segments, and the former one.
        short: The same for short segments.
    """

    pair: TilePair
    long: tuple[TimedTile, TimedTile]
    short: tuple[TimedTile, TimedTile]


Report = Callable[[str, TimedTile], None]
"""Called after each tile with the kind of segments, ``long`` or ``short``, and its time."""


def tune(
    shape: HeadShape,
    kv_heads: int,
    device: torch.device,
    *,
    former: TilePair,
    long_tiles: Sequence[Tile] = LONG_TILES,
    short_tiles: Sequence[Tile] = SHORT_TILES,
    size: TreeSize | None = None,
    report: Report = lambda kind, timed: None,
) -> Tuning:
    """Time every tile on a device and pick the fastest; a tie goes to the former, then the first.

    Args:
        shape: Sizes of the heads.
        kv_heads: Number of key-value heads.
        device: Where to run.
        former: The tiles in use so far; they are timed too.
        long_tiles: Candidates for long segments.
        short_tiles: Candidates for segments of at most SHORT_ROWS rows.
        size: The tree.
        report: Called after each tile.

    Raises:
        InputError: No tile can be used.
    """
    tree = TimedTree(shape, kv_heads, device, size or TreeSize())
    found = []
    for kind, old, tiles, works in (
        ("long", former.long, long_tiles, tree.works),
        ("short", former.short, short_tiles, [_cut(w, shape.group) for w in tree.works]),
    ):
        batches = [tree.batch(work) for work in works]
        timed = []
        for tile in dict.fromkeys((old, *(t for t in tiles if _compiles_fast(t, shape)))):
            timed.append(tree.time(tile, batches))
            report(kind, timed[-1])
        found.append((_fastest(timed, kind), timed[0]))
    long, short = found
    return Tuning(TilePair(long[0].tile, short[0].tile), long, short)


def _compiles_fast(tile: Tile, shape: HeadShape) -> bool:
    """Tensor cores multiply 16-bit numbers; float32 products are unrolled into instructions."""
    if shape.dtype != torch.float32:
        return True
    width = padded(max(shape.head_dim, shape.value_dim))
    return tile.block_m * tile.block_n * width <= _MAX_MULTIPLICATIONS * 32 * tile.num_warps


def _fastest(timed: Sequence[TimedTile], kind: str) -> TimedTile:
    usable = [(tile.seconds, tile) for tile in timed if tile.seconds is not None]
    if not usable:
        raise InputError(
            f"no tile can be used for {kind} segments (first tile: {timed[0].reason}); use "
            "another dtype or device"
        )
    return min(usable, key=lambda pair: pair[0])[1]


def _cut(work: AttentionWork, group: int) -> AttentionWork:
    """The same segments, cut to the maximum number of tokens of a short one."""
    n_tokens = max(1, SHORT_ROWS // group)
    cut, row = [], 0
    for segment in work.segments:
        end = row + min(n_tokens, segment.end - segment.begin)
        cut.append(replace(segment, begin=row, end=end))
        row = end
    return AttentionWork(tuple(cut), row)


class TimedBatch(NamedTuple):
    """A batch's queries, its segments, and torch's result."""

    query: torch.Tensor
    work: AttentionWork
    wanted: torch.Tensor


class TimedTree:
    """What is timed: keys and values of one layer, and the batches of a tree over them."""

    def __init__(
        self, shape: HeadShape, kv_heads: int, device: torch.device, size: TreeSize
    ) -> None:
        plan = uniform_plan(
            size.n,
            demonstration=size.demonstration,
            query=size.query,
            root=1,
            batch_tokens=size.batch_tokens,
        )
        self.works = [batch_work(plan, batch) for batch in range(plan.n_batches)]
        self._shape, self._device = shape, device
        self._heads = kv_heads * shape.group
        self._scaling = float(shape.head_dim**-0.5)
        self._generator = torch.Generator(device).manual_seed(0)
        self._keys = self._random(kv_heads, int(plan.pool_tokens), shape.head_dim)
        self.values = self._random(kv_heads, int(plan.pool_tokens), shape.value_dim)

    def batch(self, work: AttentionWork) -> TimedBatch:
        """Random queries for the segments."""
        query = self._random(self._heads, work.n_tokens, self._shape.head_dim)
        return TimedBatch(query, work, self.attention(sdpa.tree_attention, query, work)())

    def time(self, tile: Tile, batches: Sequence[TimedBatch]) -> TimedTile:
        """Compare one tile with torch's attention and time it, on all batches."""
        from triton.errors import TritonError

        from icm_fast.kernels.tree_attention import triton

        attend = partial(triton.tree_attention, tile=tile)
        total = 0.0
        try:
            for batch in batches:
                if wrong := self.difference(attend, batch):
                    return TimedTile(tile, None, wrong)
                total += seconds(self.attention(attend, batch.query, batch.work), self._device)
        except (TritonError, RuntimeError) as error:
            # Too much shared memory for the device, or too much for its compiler. After a fatal
            # error the device cannot be used again in this process.
            if is_fatal(error):
                raise
            return TimedTile(tile, None, first_line(error))
        return TimedTile(tile, total)

    def difference(self, attend: TreeAttention, batch: TimedBatch) -> str:
        """How an implementation differs from torch by more than the limit; empty where not."""
        found = self.attention(attend, batch.query, batch.work)().float()
        error = float((found - batch.wanted.float()).abs().max() / batch.wanted.abs().max())
        # Written so that NaN differs, too.
        return "" if error <= LIMITS[self._shape.dtype] else f"differs by {error:.1e}"

    def attention(
        self, attend: TreeAttention, query: torch.Tensor, work: AttentionWork
    ) -> Callable[[], torch.Tensor]:
        """A call of an implementation."""
        return lambda: attend(query, self._keys, self.values, work, scaling=self._scaling)

    def _random(self, *sizes: int) -> torch.Tensor:
        return torch.randn(
            *sizes, generator=self._generator, device=self._device, dtype=self._shape.dtype
        )


_WARM_UP = 2
_REPEATS = 5


def batch_work(plan: TreePlan, batch: int) -> AttentionWork:
    """Segments of one batch, with their ancestors' ranges as the runner joins them."""
    paths, works, row = RangePaths(plan), [], 0
    first, last = plan.batch_offsets[batch : batch + 2]
    for segment in map(int, plan.batch_segments[first:last]):
        end = row + int(plan.n_tokens[segment])
        own, start = int(plan.kv_offset[segment]), int(plan.start[segment])
        works.append(SegmentWork(row, end, paths.before(segment), own, start))
        row = end
    return AttentionWork(tuple(works), row)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median time of a call in seconds, until the device is done."""
    times = []
    for _ in range(_WARM_UP + _REPEATS):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - started)
    return sorted(times[_WARM_UP:])[_REPEATS // 2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
