"""From examples and gold labels to the pair (data set, gold) that every task returns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icm_fast.errors import InputError
from icm_fast.tasks.constraints import RuleLike, compile_rules
from icm_fast.tasks.sampling import pick_groups
from icm_fast.types import Constraint, Dataset, Example, IntArray, LabelSpace

TRUTH_LABELS = (" False", " True")
"""Labels of a claim; index 1 affirms it."""

CLAIM_ENDING = "I think this claim is"

TaskData = tuple[Dataset, IntArray]
"""A data set and its gold labels, ``[n_examples]`` int32, -1 unknown."""


def label_space(labels: Sequence[str]) -> LabelSpace:
    """Return the label space of ``labels``.

    Raises:
        InputError: Fewer than two labels, a blank one, or a duplicate.
    """
    try:
        return LabelSpace(tuple(labels))
    except ValueError as error:
        raise InputError(str(error)) from error


def assemble(
    name: str,
    examples: Sequence[Example],
    gold: Sequence[int],
    *,
    labels: Sequence[str] = TRUTH_LABELS,
    rules: Sequence[RuleLike] = (),
    constraints: tuple[Constraint, ...] = (),
    separator: str = "\n\n",
    preamble: str = "",
    limit: int | None = None,
    seed: int = 0,
) -> TaskData:
    """Compile the rules over all examples, then keep whole groups up to ``limit``.

    Args:
        name: Name of the task.
        examples: All examples.
        gold: ``[n_examples]`` label indices, -1 unknown; passed on, never used here.
        labels: The label space.
        rules: Consistency rules to compile.
        constraints: Compiled constraints, used instead of ``rules``.
        separator: Text between demonstrations.
        preamble: Text that stands once before all of them, followed by a separator.
        limit: Maximum number of examples.
        seed: Seed of the order in which groups are drawn.

    Raises:
        InputError: The content does not make a valid data set.
    """
    space = label_space(labels)
    compiled = constraints or compile_rules(examples, space, rules)
    try:
        whole = Dataset(tuple(examples), space, compiled, name, separator, preamble)
    except ValueError as error:
        raise InputError(str(error)) from error
    picked = pick_groups(whole.examples, limit, seed)
    # A whole data set needs no copy, which matters where it is read only for its size.
    dataset = whole if len(picked) == len(whole) else whole.subset(picked)
    return dataset, np.array(gold, dtype=np.int32)[picked]
