"""The annealing engine for a data set and its settings."""

from __future__ import annotations

from typing import Any

import numpy as np

from icm_fast._core import Engine as NativeEngine
from icm_fast._core import engine_setting_names
from icm_fast._core import utility as native_utility
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError, shown
from icm_fast.types import Dataset, IntArray, ScoreArray

ENGINE_SETTINGS: tuple[str, ...] = engine_setting_names()
"""Fields of :class:`SearchConfig` on which the engine's decisions depend."""


def engine_settings(config: SearchConfig) -> dict[str, Any]:
    """Return the settings that both the native and the reference engine take by keyword."""
    settings = {name: getattr(config, name) for name in ENGINE_SETTINGS}
    # To the engine a bootstrap is another answer to what it asks first.
    return settings | {"start": "zero-shot"} if config.start == "bootstrap" else settings


def make_engine(config: SearchConfig, dataset: Dataset) -> NativeEngine:
    """Return a native engine at the start of its search.

    Args:
        config: Settings, resolved by their preset.
        dataset: Examples with constraints; only their number and the constraints are used.

    Raises:
        InputError: If the settings do not fit the data set (:func:`check_fits`).
        ValueError: If the constraints do not fit the data set.
    """
    check_fits(config, dataset)
    pairs, tables = dataset.constraint_arrays()
    return NativeEngine(
        len(dataset), len(dataset.label_space), pairs, tables, **engine_settings(config)
    )


def check_fits(config: SearchConfig, dataset: Dataset) -> None:
    """Refuse settings that do not fit the data set.

    Raises:
        InputError: label_shares, initial_labels or fixed_labels have another size or range, or
            fixed_labels contradict a constraint.
    """
    n_labels = len(dataset.label_space)
    if config.label_shares and len(config.label_shares) != n_labels:
        raise InputError(
            f"label_shares has {len(config.label_shares)} numbers, but the data set has {n_labels} "
            f"labels ({', '.join(repr(label) for label in dataset.label_space)}); give one for each"
        )
    if config.initial_labels:
        _check_labels("initial_labels", config.initial_labels, dataset)
        if max(config.initial_labels) < 0:
            raise InputError("initial_labels label no example; label some, or use start=random")
    if config.fixed_labels:
        _check_labels("fixed_labels", config.fixed_labels, dataset)
        _check_contradictions(config.fixed_labels, dataset)


def labelling_utility(
    dataset: Dataset, labels: IntArray, scores: ScoreArray, config: SearchConfig
) -> float:
    """U(D) of a labelling, ``[n]``, under its leave-one-out scores, ``[n, n_labels]``."""
    pairs, tables = dataset.constraint_arrays()
    return float(
        native_utility(
            labels,
            scores,
            pairs,
            tables,
            str(config.objective),
            config.alpha,
            float(config.violation_weight or 0.0),
            fixed_array(config),
        )
    )


def fixed_array(config: SearchConfig) -> IntArray | None:
    """The known labels, ``[n]`` int32 and -1 where free; None without any."""
    return np.array(config.fixed_labels, np.int32) if config.fixed_labels else None


def _check_labels(name: str, labels: tuple[int, ...], dataset: Dataset) -> None:
    if len(labels) != len(dataset):
        free = "free" if name == "fixed_labels" else "unlabelled"
        raise InputError(
            f"{name} has {len(labels)} entries, but the data set has {len(dataset)} "
            f"examples; give one for each, -1 where {free}"
        )
    n_labels = len(dataset.label_space)
    wrong = next((row for row, y in enumerate(labels) if y >= n_labels), None)
    if wrong is not None:
        raise InputError(f"{name}[{wrong}] = {labels[wrong]} is outside -1 .. {n_labels - 1}")


def _check_contradictions(labels: tuple[int, ...], dataset: Dataset) -> None:
    """Refuse known labels that no labelling of the other examples could make consistent."""
    for constraint in dataset.constraints:
        ends = (constraint.first, constraint.second)
        first, second = (labels[end] for end in ends)
        if min(first, second) < 0 or constraint.allowed[first][second]:
            continue
        named = " and ".join(
            f"{shown(dataset.examples[end].id)} (row {end}) as {dataset.label_space[y]!r}"
            for end, y in zip(ends, (first, second), strict=True)
        )
        raise InputError(
            f"fixed_labels contradict the rule {shown(constraint.rule)}: {named}; correct one of "
            "them, or set it to -1"
        )
