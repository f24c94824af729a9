"""Gold labels, read from the source of a data set; no other module reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.errors import InputError, shown, suggest
from icm_fast.types import UNLABELLED, Dataset, IntArray

if TYPE_CHECKING:
    from icm_fast.tasks.rows import Row
    from icm_fast.tasks.source import TaskSource

_EVERYTHING = 10**12
"""A limit that no data set reaches."""


class NothingHeldOutError(InputError):
    """Every example with gold was searched, or is like one that was."""


def load_gold(source: TaskSource, dataset: Dataset) -> IntArray:
    """Gold labels of ``dataset``, read from its source; ``[n]`` int32.

    Raises:
        InputError: The source no longer has an example of the data set, or has another one under
            its id.
    """
    again, gold = source.load()
    known = {example.id: int(y) for example, y in zip(again.examples, gold, strict=True)}
    missing = [example.id for example in dataset.examples if example.id not in known]
    if missing:
        raise InputError(
            f"example {missing[0]!r} of the run ({len(missing)} in all) is no longer in task "
            f"{source.task!r}, data {source.data!r}; restore the data file of the run"
        )
    # Ids may be row numbers: after sorting or inserting rows, they would name other examples.
    prompts = {example.id: example.prompt for example in again.examples}
    changed = [e.id for e in dataset.examples if prompts[e.id] != e.prompt]
    if changed:
        raise InputError(
            f"example {changed[0]!r} of the run ({len(changed)} in all) has a different text now "
            f"in task {source.task!r}, data {source.data!r}; restore the data file of the run"
        )
    return np.array([known[example.id] for example in dataset.examples], dtype=np.int32)


def column_gold(rows: Iterable[Row], column: str, labels: Sequence[str]) -> IntArray:
    """Gold labels from a column of a table that was labelled; ``[n]`` int32, -1 where empty.

    Args:
        rows: All rows of the table.
        column: Name of the column.
        labels: Names of the labels.

    Raises:
        InputError: There is no such column, it is empty, or a value of it means no label.
    """
    from icm_fast.tasks.gold_values import GoldReader

    reader = GoldReader(labels)
    gold: list[int] = []
    names: set[str] = set()
    for row in rows:
        names.update(row.values)
        gold.append(reader.read(row, column))
    if column not in names:
        raise InputError(f"the table has no column {shown(column)}{suggest(column, names)}")
    found = np.array(gold, dtype=np.int32)
    if (found == UNLABELLED).all():
        raise InputError(f"column {shown(column)} holds no gold label in any row; name another one")
    return found


def held_out(source: TaskSource, dataset: Dataset, n: int) -> tuple[Dataset, IntArray]:
    """Test examples from the source of a run, none from a group or with a text that was searched.

    Examples of equal prompts, whatever their blanks and Unicode forms, count as one group. All
    that ``source`` draws counts as searched: ``dataset`` may be one batch of it, scored by a model
    that was tuned on the others.

    Args:
        source: Where the searched data came from.
        dataset: The searched data.
        n: Maximum number of test examples.

    Returns:
        The test data and their gold labels; examples without gold are left out.

    Raises:
        NothingHeldOutError: Nothing with a gold label is left.
        InputError: ``n`` is too small for a whole group.
    """
    from icm_fast.tasks.duplicates import merge_equal_texts
    from icm_fast.tasks.sampling import pick_groups

    if n < 1:
        raise InputError(f"the number of test examples must be 1 or more, got {n}")

    options = dict(source.options)
    if options.get("split") == "search":
        options["split"] = "test"
    # The description of a custom task may set a limit, which only another limit replaces.
    no_limit = _EVERYTHING if source.task == "custom" else None
    everything, gold = replace(source, limit=no_limit, options=options).load()
    seen = (*dataset.examples, *source.load_dataset().examples)
    searched = {e.id for e in seen}
    merged = merge_equal_texts((*seen, *everything.examples))
    groups = {e.group for e in merged[: len(seen)] if e.group is not None}
    examples = merged[len(seen) :]
    free = [
        i
        for i, e in enumerate(examples)
        if gold[i] != UNLABELLED and e.id not in searched and e.group not in groups
    ]
    if not free:
        raise NothingHeldOutError(
            f"task {source.task!r} has no example with gold besides the {len(searched)} searched "
            "ones; search fewer (--limit) so that some are held out, or raise n_groups if the task "
            "generates its data"
        )
    picked = pick_groups(
        [examples[i] for i in free], n, source.seed, name="the number of test examples"
    )
    rows = [free[k] for k in picked]
    return everything.subset(rows), gold[rows]
