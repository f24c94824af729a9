"""The cells of the bench: tasks with models and sizes that two cores finish in hours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import icm_fast
from icm_fast.types import Dataset, IntArray

SMOLLM2, GEMMA = "smollm2", "gemma3-270m"
_SHORT = 100
_PAIRED = {"max_chars": 60, "form": "paired"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A task with a model.

    Attributes:
        name: Name in tables and files.
        task: Name of the task.
        model: Name of the model.
        n: Number of examples.
        options: Options of the task.
        file: Name of its data below the data folder; None where the package holds them.
        start: Labels from which the search starts on purpose: ``wrong`` is gold, each label
            exchanged for the next one; None for its own.
    """

    name: str
    task: str
    model: str
    n: int = 64
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    file: str | None = None
    start: str | None = None

    def load(self, seed: int, data: Path | None) -> tuple[Dataset, IntArray]:
        """The examples that the seed draws, and their gold labels."""
        path = None if self.file is None or data is None else data / self.file
        dataset, gold = icm_fast.load_task(
            self.task, path, limit=self.n, seed=seed, **dict(self.options)
        )
        return dataset, np.asarray(gold, np.int32)


def _tasks(model: str) -> tuple[Cell, ...]:
    return (
        Cell("reviews", "movie-sentiment", model, options={"max_chars": 60}),
        Cell("longer reviews", "movie-sentiment", model, options={"max_chars": _SHORT}),
        Cell("tweets", "tweet-sentiment", model, options={"classes": 2, "max_chars": _SHORT}),
        Cell("editorials", "news-sentiment", model, options={"classes": 2, "max_chars": _SHORT}),
        Cell("sources", "snippet-source", model, options={"max_chars": _SHORT}),
        Cell("paired reviews", "movie-sentiment", model, options=_PAIRED),
    )


BENCH = (*_tasks(GEMMA), *_tasks(SMOLLM2))
"""Cells of the comparison."""

HARD = (
    Cell("tweets, 3 classes", "tweet-sentiment", GEMMA, options={"max_chars": _SHORT}),
    Cell("tweets, 3 classes", "tweet-sentiment", SMOLLM2, options={"max_chars": _SHORT}),
    Cell("sun poems", "sun-poems", SMOLLM2, 32),
    Cell("sun poems", "sun-poems", GEMMA, 32),
    Cell("comparisons", "larger-than", SMOLLM2, 48),
    Cell("comparisons", "larger-than", GEMMA, 48),
    Cell("sums", "arithmetic", SMOLLM2, 48),
    Cell("sums", "arithmetic", GEMMA, 48),
)
"""Cells in which a search fails, for the verdict."""

WRONG = tuple(
    replace(cell, name=f"{cell.name}, wrong start", start="wrong")
    for cell in BENCH
    if cell.name in ("reviews", "sources", "tweets", "editorials")
)
"""Searches from wrong labels, for the verdict as well; they take several times as long."""
