"""Which examples make up a batch, and which are held out; functions of lengths, groups and seed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from icm_fast.errors import InputError
from icm_fast.tasks.constraints import connected_rows
from icm_fast.training.config import TuningConfig
from icm_fast.types import Dataset

_STREAM = 2**32
"""Of random numbers; those below belong to epochs."""


def plan_batches(
    lengths: Sequence[int], groups: Sequence[Hashable], config: TuningConfig
) -> tuple[list[list[int]], list[int]]:
    """Rows of every batch of every epoch, and the rows that are held out.

    Args:
        lengths: ``[n]``, tokens of each row.
        groups: ``[n]``, the group of each row.
        config: Epochs, size of a batch, share that is held out, and seed.

    Raises:
        InputError: Nothing can be held out.
    """
    rows, held_out = split_groups(groups, config.eval_fraction, config.seed)
    batches = order_batches(
        [lengths[row] for row in rows],
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    return [[rows[k] for k in batch] for batch in batches], held_out


def order_batches(
    lengths: Sequence[int], *, epochs: int, batch_size: int, seed: int
) -> list[list[int]]:
    """Rows of every batch of every epoch; a function of the arguments alone.

    In each epoch the rows are shuffled, cut into stretches of eight batches, sorted by length
    inside a stretch so that little is padded, and the batches are shuffled again.
    """
    stretch = 8 * batch_size
    batches: list[list[int]] = []
    for epoch in range(epochs):
        random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        rows = [int(row) for row in random.permutation(len(lengths))]
        cut = []
        for start in range(0, len(rows), stretch):
            part = sorted(rows[start : start + stretch], key=lambda row: lengths[row])
            cut += [part[k : k + batch_size] for k in range(0, len(part), batch_size)]
        batches += [cut[int(k)] for k in random.permutation(len(cut))]
    return batches


def split_groups(
    groups: Sequence[Hashable], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to measure on, both ascending; a group is never in both.

    Args:
        groups: ``[n]``, the group of each row.
        fraction: Share of the groups that is held out, at least one of them; 0 for none.
        seed: Seed of which ones.

    Raises:
        InputError: There is only one group.
    """
    if not fraction:
        return list(range(len(groups))), []
    known = list(dict.fromkeys(groups))
    if len(known) < 2:
        raise InputError(
            f"all {len(groups)} examples are of one group, so none can be held out; set "
            "eval_fraction to 0"
        )
    n_out = min(max(1, round(fraction * len(known))), len(known) - 1)
    random = np.random.Generator(np.random.Philox(key=[seed, _STREAM]))
    out = {known[int(k)] for k in random.permutation(len(known))[:n_out]}
    rows = range(len(groups))
    return [row for row in rows if groups[row] not in out], [r for r in rows if groups[r] in out]


def connected_groups(dataset: Dataset) -> list[int]:
    """The first row of the group of each example, ``[n]``; a constraint joins groups."""
    seen: dict[str, int] = {}
    pairs = [
        (seen.setdefault(example.group, row), row)
        for row, example in enumerate(dataset.examples)
        if example.group is not None
    ]
    pairs += [(constraint.first, constraint.second) for constraint in dataset.constraints]
    return list(connected_rows(len(dataset), pairs))
