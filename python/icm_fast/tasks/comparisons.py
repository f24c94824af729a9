"""The two texts that an example compares, read again from its task; gold is not used."""

from __future__ import annotations

from collections.abc import Callable

from icm_fast.errors import InputError, shown
from icm_fast.tasks.movie_sentiment import review_comparisons
from icm_fast.tasks.preference import alpaca_comparisons, gender_comparisons, truth_comparisons
from icm_fast.tasks.source import TaskSource
from icm_fast.tasks.sun_poems import poem_comparisons
from icm_fast.types import Comparison

COMPARING_TASKS: dict[str, Callable[..., dict[str, Comparison]]] = {
    "alpaca-preference": alpaca_comparisons,
    "truthfulqa-preference": truth_comparisons,
    "author-gender": gender_comparisons,
    "movie-sentiment": review_comparisons,
    "sun-poems": poem_comparisons,
}
"""By task name; each takes the arguments of the task's loader."""


def load_comparisons(source: TaskSource) -> dict[str, Comparison]:
    """Read what each example of a task compares, by example id.

    Raises:
        InputError: The task does not compare two texts, or its data cannot be read.
    """
    if source.task not in COMPARING_TASKS:
        raise InputError(
            f"task {shown(source.task)} does not compare two texts, so its labels are not "
            "preferences; "
            f"export another format, or search one of {', '.join(COMPARING_TASKS)} "
            "(movie-sentiment with --option form=paired)"
        )
    return COMPARING_TASKS[source.task](
        source.data, limit=source.limit, seed=source.seed, **source.options
    )
