"""What is measured: a model, a data set and a number of examples."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.random_model import QWEN_SHAPE
from icm_fast.errors import InputError, suggest
from icm_fast.tasks.source import TaskSource
from icm_fast.types import IntArray


@dataclass(frozen=True, slots=True)
class Case:
    """One measured evaluation of U(D).

    Attributes:
        name: Name of the result files.
        model: Hub id, folder, ``.gguf`` file, embedded name, or ``qwen-shape`` (random weights).
        task: Name of the task.
        data: Path of its data; None for installed or generated data.
        n: Maximum number of examples, all of them labelled.
        dtype: ``auto`` (bfloat16 where it is fast), ``bfloat16`` or ``float32``.
        seed: Seed of the choice of examples, of the labels and of the context orders.
    """

    name: str
    model: str
    task: str
    data: str | None
    n: int
    dtype: str = "auto"
    seed: int = 0

    @property
    def source(self) -> TaskSource:
        """How to load the examples."""
        return TaskSource(self.task, self.data, self.n, self.seed)


CASES = {
    case.name: case
    for case in (
        Case("smollm2-truthfulqa-64", "smollm2", "truthfulqa", None, 64),
        Case("gemma3-truthfulqa-64", "gemma3-270m", "truthfulqa", None, 64),
        Case("qwen-shape-32", QWEN_SHAPE, "truthfulqa", None, 32),
    )
}
"""Named cases; the path of their data is an argument."""

DTYPES = ("auto", "bfloat16", "float32")


def choose_case(name: str | None, **changes: Any) -> Case:
    """A named case with changed fields, or a new one if no name is given.

    Args:
        name: A key of ``CASES``, or None with ``model``, ``task`` and ``n`` in ``changes``.
        **changes: Fields of :class:`Case`; None leaves a field as it is.

    Raises:
        InputError: Unknown case or dtype, or a field missing.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    if name is not None and name not in CASES:
        raise InputError(f"unknown case {name!r}{suggest(name, CASES)}")
    case = _own_case(given) if name is None else dataclasses.replace(CASES[name], **given)
    if case.dtype not in DTYPES:
        raise InputError(f"unknown dtype {case.dtype!r}{suggest(case.dtype, DTYPES)}")
    if case.n < 2:
        raise InputError(f"limit = {case.n} is too small; a leave-one-out pass needs 2 or more")
    if case.task == "truthfulqa" and case.data is None:
        raise InputError(f"case {case.name!r} needs its data; add --data FILE")
    return dataclasses.replace(case, name=_name(case, CASES.get(name or "")))


def _own_case(given: dict[str, Any]) -> Case:
    missing = [key for key in ("model", "task", "n") if key not in given]
    if missing:
        flags = ", ".join("--limit" if key == "n" else f"--{key}" for key in missing)
        raise InputError(f"no case given; add --case NAME, or {flags}; cases: {', '.join(CASES)}")
    return Case(**{"name": "", "data": None, **given})


def _name(case: Case, original: Case | None) -> str:
    """A name for the result files that shows which settings differ."""
    if original and all(
        getattr(case, field) == getattr(original, field)
        for field in ("model", "task", "n", "dtype", "seed")
    ):
        return original.name
    parts = [Path(case.model).stem, case.task, str(case.n)]
    parts += [case.dtype] if case.dtype != "auto" else []
    parts += [f"seed{case.seed}"] if case.seed else []
    return "-".join(parts)


def balanced_labels(n: int, n_labels: int, seed: int) -> IntArray:
    """Each label equally often, in a seeded order, ``[n]`` int32: never gold."""
    labels = np.arange(n, dtype=np.int32) % n_labels
    shuffled: IntArray = np.random.default_rng(seed).permutation(labels)
    return shuffled
