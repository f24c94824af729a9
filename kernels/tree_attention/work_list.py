"""The launch plan of the Triton kernel: which rows read which keys, as flat int32 tables.

Two tables. *Blocks* cut every segment's keys (ancestors' ranges, then its own) into pieces of at
most ``block_n`` adjacent pool slots. *Items* are the programs' jobs: a tile of query rows and the
blocks that it reads. One loop over blocks covers any number of ranges, so that a short range does
not start a separate pipeline.

Optionally, a tile that would read more than its share of all blocks is split; otherwise a level of
a few long segments would leave most of the device idle. *Merges* say how the parts are combined.

The tables are built natively, by csrc/plan/launch_plan.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from icm_fast._core import plan_launch
from icm_fast.kernels.one_copy import one_copy
from icm_fast.kernels.tree_attention.work import AttentionWork

BLOCK_FIELDS = 4
"""slot, number of keys, position of the first key in the context, unused."""

ITEM_FIELDS = 8
"""Row of the segment in the batch, first row of the tile in the segment, rows of the segment (both
times the heads of the group), position of the segment, first block, first block that needs a mask,
end of blocks, number of the partial result or -1."""

MERGE_FIELDS = 6
"""The first four fields of an item, then the first partial result and their number."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What a launch reads besides queries, keys and values.

    Attributes:
        items: ``[n_items, ITEM_FIELDS]`` int32, those with the most blocks first.
        blocks: ``[n_blocks, BLOCK_FIELDS]`` int32.
        merges: ``[n_merges, MERGE_FIELDS]`` int32, one row per split tile.
        n_partials: Partial results of all split tiles, per key-value head.
        slot_end: One past the last pool slot that is read.
    """

    items: torch.Tensor
    blocks: torch.Tensor
    merges: torch.Tensor
    n_partials: int
    slot_end: int


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What a plan depends on besides the work.

    Attributes:
        group: Query heads per key-value head.
        kv_heads: Key-value heads.
        block_m: Rows of a tile.
        block_n: Keys of a block.
        lengths: Rows (tokens x heads of a group) of the segments that this launch covers.
        sliding_window: As in ``naive.tree_attention``.
        n_sms: Multiprocessors to fill; 0 splits nothing, so that a row's sums do not depend on
            what else is in the batch.
        device: Device of the tables.
    """

    group: int
    kv_heads: int
    block_m: int
    block_n: int
    lengths: range
    sliding_window: int | None
    n_sms: int
    device: torch.device


def launch_plan(work: AttentionWork, settings: PlanSettings) -> LaunchPlan:
    """The plan of a batch, built once and kept with its work.

    Raises:
        ValueError: If the segments' rows do not cover the batch, a range is reversed or begins
            before the pool, the ranges before a segment do not add up to its position, or a
            slot or a query row is 2^31 or more.
    """
    plan = work.plans.get(settings)
    if plan is None:
        plan = work.plans[settings] = make_plan(work, settings)
    assert isinstance(plan, LaunchPlan)
    return plan


def make_plan(work: AttentionWork, settings: PlanSettings) -> LaunchPlan:
    """Build the tables; see :func:`launch_plan`."""
    items, blocks, merges, n_partials, slot_end = plan_launch(
        [(s.begin, s.end, s.own, s.start, s.ranges) for s in work.segments],
        work.n_tokens,
        group=settings.group,
        kv_heads=settings.kv_heads,
        block_m=settings.block_m,
        block_n=settings.block_n,
        lengths=(settings.lengths.start, settings.lengths.stop),
        window=settings.sliding_window or 0,
        n_sms=settings.n_sms,
    )
    there_items, there_blocks, there_merges = one_copy([items, blocks, merges], settings.device)
    return LaunchPlan(
        items=there_items,
        blocks=there_blocks,
        merges=there_merges,
        n_partials=n_partials,
        slot_end=slot_end,
    )
