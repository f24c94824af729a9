"""Time our attention and those of other libraries on a device, on a whole tree."""

from __future__ import annotations

from collections.abc import Callable

import torch

from icm_fast.errors import first_line
from icm_fast.kernels.tree_attention import AttentionWork, trial
from icm_fast.kernels.tree_attention.measured import Times
from icm_fast.kernels.tree_attention.select import select_ours
from icm_fast.kernels.tree_attention.tuned_tiles import HeadShape
from icm_fast.kernels.tree_attention.versions import LIBRARIES, Needs, Version, name_of
from icm_fast.kernels.tree_attention.work import TreeAttention
from icm_fast.model.forward.tile_search import (
    TimedBatch,
    TimedTree,
    TreeSize,
    is_fatal,
    seconds,
)

Report = Callable[[str, float | None, str], None]
"""Called after each version with its name, its seconds, and why it has none."""


def time_versions(
    shape: HeadShape,
    kv_heads: int,
    device: torch.device,
    *,
    n_layers: int,
    size: TreeSize | None = None,
    report: Report = lambda name, seconds, reason: None,
) -> Times:
    """Time ours, and every library that serves these heads and passes the trial.

    Args:
        shape: Sizes of the heads.
        kv_heads: Number of key-value heads.
        device: Where to run.
        n_layers: Layers of the model; what is planned once for a batch is shared among them.
        size: The tree.
        report: Called after each version.
    """
    tree = TimedTree(shape, kv_heads, device, size or TreeSize())
    batches = [tree.batch(work) for work in tree.works]
    ours = select_ours(batches[0].query, tree.values)
    times = {name_of(ours): _time(tree, ours, batches, device, n_layers)}
    report(name_of(ours), times[name_of(ours)], "")
    for version in LIBRARIES:
        reason = version.unserved_because(Needs(shape, device))
        reason = reason or trial.failure(version.name, device, (shape.head_dim,))
        took = None
        if not reason:
            took, reason = _time_library(tree, version, batches, device, n_layers)
        if took is not None:
            times[version.name] = took
        report(version.name, took, reason)
    return Times(name_of(ours), times)


def _time_library(
    tree: TimedTree,
    version: Version,
    batches: list[TimedBatch],
    device: torch.device,
    n_layers: int,
) -> tuple[float | None, str]:
    """Seconds of a library, or None and why."""
    try:
        attend = version.load()
        for batch in batches:
            if wrong := tree.difference(attend, batch):
                return None, wrong
        return _time(tree, attend, batches, device, n_layers), ""
    except Exception as error:  # whatever a library raises, ours serve
        if is_fatal(error):
            raise
        return None, first_line(error)


def _time(
    tree: TimedTree,
    attend: TreeAttention,
    batches: list[TimedBatch],
    device: torch.device,
    n_layers: int,
) -> float:
    """Seconds of one layer, with its share of what is planned once for all layers."""
    total = 0.0
    for query, work, _ in batches:
        planned = seconds(tree.attention(attend, query, work), device)

        def anew(query: torch.Tensor = query, work: AttentionWork = work) -> torch.Tensor:
            unplanned = AttentionWork(work.segments, work.n_tokens)
            return tree.attention(attend, query, unplanned)()

        total += planned + max(0.0, seconds(anew, device) - planned) / n_layers
    return total
