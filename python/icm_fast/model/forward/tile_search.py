"""The fastest tiles of the Triton attention on a device, found by trying them on a whole tree.

A tile is held against torch's attention before it is timed. Long and short segments have tiles of
their own, so each kind is timed apart: on the batches of one exact U(D), and on the same segments
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
from icm_fast.plan.uniform import uniform_plan

LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 1e-2}
"""Largest difference from torch's attention, as a share of the largest value."""

LONG_TILES = tuple(
    Tile(*sizes) for sizes in product((16, 32, 64, 128), (16, 32, 64, 128), (4, 8), (3, 5))
)
SHORT_TILES = tuple(tile for tile in LONG_TILES if tile.block_m == SHORT_ROWS)

_ENDING = {"OutOfMemoryError", "AcceleratorError"}
"""Errors of torch that say nothing of a tile; by name, for older versions lack the second."""

_MOST_MULTIPLICATIONS = 4096
"""Of a thread in one float32 product: they are written out, and compilers take minutes for more."""


@dataclass(frozen=True, slots=True)
class TreeSize:
    """The tree that tiles are timed on.

    Attributes:
        n: Examples.
        demonstration: Tokens of one with its label.
        query: Tokens of one without.
        batch_tokens: Most tokens of a batch.
    """

    n: int = 64
    demonstration: int = 43
    query: int = 40
    batch_tokens: int = 16384


@dataclass(frozen=True, slots=True)
class Trial:
    """One tile.

    Attributes:
        tile: Its sizes.
        seconds: Of all batches; None where it does not serve.
        reason: Why it does not; empty where it does.
    """

    tile: Tile
    seconds: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was found.

    Attributes:
        pair: The fastest tiles.
        long: The trial of the fastest one for long segments, and that of the former one.
        short: The same for short segments.
    """

    pair: TilePair
    long: tuple[Trial, Trial]
    short: tuple[Trial, Trial]


Report = Callable[[str, Trial], None]
"""Is told about each trial: ``long`` or ``short``, and what came of it."""


def tune(
    shape: HeadShape,
    kv_heads: int,
    device: torch.device,
    *,
    former: TilePair,
    long_tiles: Sequence[Tile] = LONG_TILES,
    short_tiles: Sequence[Tile] = SHORT_TILES,
    size: TreeSize | None = None,
    report: Report = lambda kind, trial: None,
) -> Tuning:
    """Time every tile on a device and choose; equal times keep the earlier one, the former first.

    Args:
        shape: Heads.
        kv_heads: Key-value heads.
        device: Where to run.
        former: The tiles taken without this; they are tried, too.
        long_tiles: Candidates for long segments.
        short_tiles: Candidates for segments of at most SHORT_ROWS rows.
        size: The tree.
        report: Is told about each trial.

    Raises:
        InputError: No tile serves.
    """
    tree = _Tree(shape, kv_heads, device, size or TreeSize())
    found = []
    for kind, old, tiles, works in (
        ("long", former.long, long_tiles, tree.works),
        ("short", former.short, short_tiles, [_cut(w, shape.group) for w in tree.works]),
    ):
        batches = [tree.batch(work) for work in works]
        trials = []
        for tile in dict.fromkeys((old, *(t for t in tiles if _compiles_soon(t, shape)))):
            trials.append(tree.trial(tile, batches))
            report(kind, trials[-1])
        found.append((_fastest(trials, kind), trials[0]))
    long, short = found
    return Tuning(TilePair(long[0].tile, short[0].tile), long, short)


def _compiles_soon(tile: Tile, shape: HeadShape) -> bool:
    """Tensor cores multiply 16-bit numbers; float32 products become instructions of threads."""
    if shape.dtype != torch.float32:
        return True
    width = padded(max(shape.head_dim, shape.value_dim))
    return tile.block_m * tile.block_n * width <= _MOST_MULTIPLICATIONS * 32 * tile.num_warps


def _fastest(trials: Sequence[Trial], kind: str) -> Trial:
    served = [(trial.seconds, trial) for trial in trials if trial.seconds is not None]
    if not served:
        raise InputError(f"no tile serves {kind} segments; the first: {trials[0].reason}")
    return min(served, key=lambda pair: pair[0])[1]


def _cut(work: AttentionWork, group: int) -> AttentionWork:
    """The same segments with as many tokens as a short one may have."""
    n_tokens = max(1, SHORT_ROWS // group)
    cut, row = [], 0
    for segment in work.segments:
        end = row + min(n_tokens, segment.end - segment.begin)
        cut.append(replace(segment, begin=row, end=end))
        row = end
    return AttentionWork(tuple(cut), row)


class _Batch(NamedTuple):
    """A batch's queries, its segments, and what torch makes of them."""

    query: torch.Tensor
    work: AttentionWork
    wanted: torch.Tensor


class _Tree:
    """Keys and values of one layer, and the batches of a tree over them."""

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
        self._values = self._random(kv_heads, int(plan.pool_tokens), shape.value_dim)

    def batch(self, work: AttentionWork) -> _Batch:
        """Random queries for the segments."""
        query = self._random(self._heads, work.n_tokens, self._shape.head_dim)
        return _Batch(query, work, self._attention(sdpa.tree_attention, query, work)())

    def trial(self, tile: Tile, batches: Sequence[_Batch]) -> Trial:
        """Compare and time one tile on all batches."""
        from triton.errors import TritonError

        from icm_fast.kernels.tree_attention import triton

        attend = partial(triton.tree_attention, tile=tile)
        total = 0.0
        try:
            for query, work, wanted in batches:
                run = self._attention(attend, query, work)
                error = float((run().float() - wanted.float()).abs().max() / wanted.abs().max())
                if not error <= LIMITS[self._shape.dtype]:  # not a number, too
                    return Trial(tile, None, f"differs by {error:.1e}")
                total += seconds(run, self._device)
        except (TritonError, RuntimeError) as error:
            # Too much shared memory for a device, or more than its compiler can do. A device that
            # an error has stopped does not come back in this process.
            if type(error).__name__ in _ENDING:
                raise
            return Trial(tile, None, first_line(error))
        return Trial(tile, total)

    def _attention(
        self, attend: TreeAttention, query: torch.Tensor, work: AttentionWork
    ) -> Callable[[], torch.Tensor]:
        return lambda: attend(query, self._keys, self._values, work, scaling=self._scaling)

    def _random(self, *sizes: int) -> torch.Tensor:
        return torch.randn(
            *sizes, generator=self._generator, device=self._device, dtype=self._shape.dtype
        )


_WARM_UP = 2


_REPEATS = 5


def batch_work(plan: TreePlan, batch: int) -> AttentionWork:
    """Segments of one batch with their ancestors' ranges, root first."""
    works, row = [], 0
    for segment in plan.batch_segments[plan.batch_offsets[batch] : plan.batch_offsets[batch + 1]]:
        ranges: list[tuple[int, int]] = []
        ancestor = int(plan.parent[segment])
        while ancestor >= 0:
            begin = int(plan.kv_offset[ancestor])
            ranges.insert(0, (begin, begin + int(plan.n_tokens[ancestor])))
            ancestor = int(plan.parent[ancestor])
        end = row + int(plan.n_tokens[segment])
        own, start = int(plan.kv_offset[segment]), int(plan.start[segment])
        works.append(SegmentWork(row, end, tuple(ranges), own, start))
        row = end
    return AttentionWork(tuple(works), row)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median time of a call, until the device is done."""
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
