"""Tasks by name: each loads a data set and, separately, the gold labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from icm_fast.errors import InputError, suggest
from icm_fast.tasks.arithmetic import load_arithmetic, load_larger_than
from icm_fast.tasks.assembly import TaskData
from icm_fast.tasks.custom import load_custom
from icm_fast.tasks.gsm8k import load_gsm8k_verification
from icm_fast.tasks.movie_sentiment import load_movie_sentiment
from icm_fast.tasks.preference import load_alpaca_preference, load_author_gender
from icm_fast.tasks.rows import PathLike
from icm_fast.tasks.sun_poems import load_sun_poems
from icm_fast.tasks.truthfulqa import load_truthfulqa

TASKS: dict[str, Callable[..., TaskData]] = {
    "truthfulqa": load_truthfulqa,
    "gsm8k-verification": load_gsm8k_verification,
    "alpaca-preference": load_alpaca_preference,
    "author-gender": load_author_gender,
    "movie-sentiment": load_movie_sentiment,
    "arithmetic": load_arithmetic,
    "larger-than": load_larger_than,
    "sun-poems": load_sun_poems,
    "custom": load_custom,
}
"""Loaders by task name; all take ``(path, *, limit, seed, **options)``."""


def load_task(
    name: str,
    path: PathLike | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    **options: object,
) -> TaskData:
    """Load a task.

    Args:
        name: A key of ``TASKS``.
        path: File or folder of the data; generated and installed tasks need none.
        limit: Maximum number of examples; groups stay whole and are drawn in a seeded order.
        seed: Seed of that draw (and of generated data).
        **options: Options of the task; see its loader.

    Returns:
        The data set, which holds no gold label, and the gold labels ``[n_examples]`` int32
        (indices into the label space, -1 unknown). The data set does not depend on gold.

    Raises:
        InputError: Unknown task or option, or data that cannot be read.
    """
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}{suggest(str(name), TASKS)}")
    loader = TASKS[name]
    known = set(inspect.signature(loader).parameters) - {"path", "limit", "seed"}
    for option in options:
        if option not in known:
            raise InputError(
                f"unknown option {option!r} of task {name!r}"
                f"{suggest(option, known) if known else '; it has none'}"
            )
    return loader(path, limit=limit, seed=seed, **options)
