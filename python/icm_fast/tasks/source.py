"""Where a data set came from, so that it can be read again; its gold only after the search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from icm_fast.errors import InputError
from icm_fast.types import Dataset, IntArray


@dataclass(frozen=True, slots=True)
class TaskSource:
    """Arguments of ``load_task``.

    Attributes:
        task: Name of the task.
        data: Path of its data; None for installed or generated data.
        limit: Maximum number of examples; None for all.
        seed: Seed of the choice of examples.
        options: Further options of the task.
    """

    task: str
    data: str | None = None
    limit: int | None = None
    seed: int = 0
    options: Mapping[str, object] = field(default_factory=dict)

    def load(self) -> tuple[Dataset, IntArray]:
        """The data set and its gold labels, ``[n]`` int32, -1 where unknown.

        Raises:
            InputError: Unknown task or option, or data that cannot be used.
        """
        from icm_fast.tasks.registry import load_task

        try:
            return load_task(
                self.task, self.data, limit=self.limit, seed=self.seed, **dict(self.options)
            )
        except InputError:
            raise
        except ValueError as error:  # the data model's own checks
            raise InputError(f"task {self.task}: {error}") from error

    def load_dataset(self) -> Dataset:
        """The data set alone; the gold labels are dropped here and never reach a search."""
        return self.load()[0]

    def to_dict(self) -> dict[str, object]:
        """Plain YAML types."""
        return {
            "task": self.task,
            "data": self.data,
            "limit": self.limit,
            "options": dict(self.options),
        }
