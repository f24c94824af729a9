"""Labels that single annotators gave: what one crowd worker would have labelled, where data say so.

They are labels of people, so no search may read them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from icm_fast.errors import InputError, shown
from icm_fast.tasks.movie_sentiment import crowd_labels
from icm_fast.tasks.rows import Row, read_rows
from icm_fast.tasks.source import TaskSource
from icm_fast.types import UNLABELLED, Dataset, IntArray

_COLUMN = "candidate_label"


def annotator_labels(source: TaskSource, dataset: Dataset, rater: int = 0) -> IntArray:
    """Labels of one annotator for each example.

    Args:
        source: Where the data set came from.
        dataset: Its examples, or some of them.
        rater: Number of the annotator, from 0.

    Returns:
        ``[n]`` int32; -1 where the annotator is unknown or was neutral, everywhere for tasks whose
        data hold no labels of single annotators. Those of alpaca-preference are the column
        ``candidate_label``, a list of them per row; a row without one has the opposite of the same
        pair in the other order.

    Raises:
        InputError: Data that cannot be read, or a row with fewer annotators.
    """
    if source.task == "movie-sentiment":
        return crowd_labels(source.task, dataset, rater)
    labels = np.full(len(dataset), UNLABELLED, np.int32)
    if source.task == "alpaca-preference" and source.data is not None:
        known = _pair_labels(read_rows(source.data), rater)
        for position, example in enumerate(dataset.examples):
            labels[position] = known.get(example.id, UNLABELLED)
    return labels


def _pair_labels(rows: list[Row], rater: int) -> Mapping[str, int]:
    """By example id."""
    own = {_key(row): _own(row, rater) for row in rows}
    labels = {}
    for row in rows:
        group, first, second = _key(row)
        label, other = own[group, first, second], own.get((group, second, first), UNLABELLED)
        if label == UNLABELLED and other != UNLABELLED:
            label = 1 - other
        labels[f"alpaca-preference-{row.number}"] = label
    return labels


def _key(row: Row) -> tuple[str | None, str, str]:
    return row.optional("consistency_id"), row.text("choice"), row.text("choice_2")


def _own(row: Row, rater: int) -> int:
    given = row.values.get(_COLUMN)
    if given is None:
        return UNLABELLED
    if not isinstance(given, list) or not all(value in (0, 1) for value in given):
        raise InputError(
            f"{row.where}: column {shown(_COLUMN)} must be a list of true and false, got "
            f"{shown(given)}"
        )
    if rater >= len(given):
        raise InputError(
            f"{row.where}: column {shown(_COLUMN)} has {len(given)} annotators, so there is no "
            f"annotator {rater}"
        )
    return int(given[rater])
