"""Several plans as one, so that batches of small levels fill a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from icm_fast._core import TreePlan

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Segments of a plan that is made here: what a runner reads.

    Attributes:
        parent: Parent segment or -1, ``[n_segments]``, as for all that follows.
        n_tokens: Tokens of each segment.
        start: Tokens before each segment in its context.
        kv_offset: First pool slot of each segment.
        batch_offsets: Where each batch begins in ``batch_segments``, ``[n_batches + 1]``.
        batch_segments: Segments in execution order.
        pool_tokens: Size of the pool, in slots.
        is_kept: False: nothing of earlier plans is read.
    """

    parent: Int32s
    n_tokens: Int64s
    start: Int64s
    kv_offset: Int64s
    batch_offsets: Int64s
    batch_segments: Int32s
    pool_tokens: int
    is_kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JointPlan(Segments):
    """Plans side by side: their segments one plan after the other, their batches in pairs or more.

    Attributes:
        first: ``[n_plans + 1]`` int64, number of each plan's first segment.
    """

    first: Int64s


def even(n_tokens: int) -> int:
    """The next even number of slots, so that whatever follows begins at an even one.

    The native decoder keeps keys in pairs, and where pairs fall decides a segment's last bits.
    """
    return (n_tokens + 1) // 2 * 2


def pool_slots(plan: TreePlan) -> int:
    """Slots of a plan in a joint pool, so that every segment of it begins at an even one."""
    return even(int(plan.pool_tokens))


def groups_within(plans: Sequence[TreePlan], pool_tokens: int) -> list[list[int]]:
    """Consecutive plans whose pools fit together, by their places; one that does not fit is alone.

    Args:
        plans: The plans.
        pool_tokens: Maximum size of the pool of several plans.
    """
    groups: list[list[int]] = []
    held = 0
    for place, plan in enumerate(plans):
        slots = pool_slots(plan)
        if not groups or held + slots > pool_tokens:
            groups.append([])
            held = 0
        groups[-1].append(place)
        held += slots
    return groups


def join_plans(plans: Sequence[TreePlan], batch_tokens: int) -> JointPlan:
    """The plans as one, each in its own part of the pool and its batches in their order.

    Args:
        plans: Plans that read nothing of earlier ones.
        batch_tokens: Maximum number of tokens of a joint batch; a larger one runs alone.
    """
    if any(plan.is_kept for plan in plans):
        raise ValueError("a plan that reads what earlier ones wrote has no place beside others")
    first = np.cumsum([0, *(plan.n_segments for plan in plans)], dtype=np.int64)
    slots = np.cumsum([0, *(pool_slots(plan) for plan in plans)], dtype=np.int64)
    parents = [
        np.where(plan.parent >= 0, plan.parent + begin, -1)
        for plan, begin in zip(plans, first, strict=False)
    ]
    places = [plan.kv_offset + begin for plan, begin in zip(plans, slots, strict=False)]
    batches = [
        np.concatenate([_batch(plans[k], b) + first[k] for k, b in taken])
        for taken in _together(plans, batch_tokens)
    ]
    return JointPlan(
        first=first,
        parent=np.concatenate(parents).astype(np.int32),
        n_tokens=np.concatenate([plan.n_tokens for plan in plans]),
        start=np.concatenate([plan.start for plan in plans]),
        kv_offset=np.concatenate(places),
        batch_offsets=np.cumsum([0, *map(len, batches)], dtype=np.int64),
        batch_segments=np.concatenate(batches).astype(np.int32),
        pool_tokens=int(slots[-1]),
    )


def _batch(plan: TreePlan, batch: int) -> Int32s:
    """Segments of one batch."""
    begin, end = plan.batch_offsets[batch : batch + 2]
    segments: Int32s = plan.batch_segments[begin:end]
    return segments


def _together(plans: Sequence[TreePlan], batch_tokens: int) -> Iterator[list[tuple[int, int]]]:
    """Batches that run together, as (plan, batch): of each plan the next one, where it fits."""
    done = [0] * len(plans)
    while any(done[k] < plan.n_batches for k, plan in enumerate(plans)):
        taken: list[tuple[int, int]] = []
        n_tokens = 0
        for k, plan in enumerate(plans):
            if done[k] == plan.n_batches:
                continue
            size = int(plan.n_tokens[_batch(plan, done[k])].sum())
            if not taken or n_tokens + size <= batch_tokens:
                taken.append((k, done[k]))
                n_tokens += size
        for k, _ in taken:
            done[k] += 1
        yield taken
