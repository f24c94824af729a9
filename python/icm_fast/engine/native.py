"""The annealing engine for a data set and its settings."""

from __future__ import annotations

from typing import Any

from icm_fast._core import Engine as NativeEngine
from icm_fast._core import engine_setting_names
from icm_fast._core import utility as native_utility
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.types import Dataset, IntArray, ScoreArray

ENGINE_SETTINGS: tuple[str, ...] = engine_setting_names()
"""Fields of :class:`SearchConfig` on which the engine's decisions depend."""


def engine_settings(config: SearchConfig) -> dict[str, Any]:
    """Return the settings that both the native and the reference engine take by keyword."""
    return {name: getattr(config, name) for name in ENGINE_SETTINGS}


def make_engine(config: SearchConfig, dataset: Dataset) -> NativeEngine:
    """Return a native engine at the start of its search.

    Args:
        config: Settings, resolved by their preset.
        dataset: Examples with constraints; only their number and the constraints are used.

    Raises:
        InputError: If label_shares or initial_labels do not fit the data set.
        ValueError: If the constraints do not fit the data set.
    """
    n_labels = len(dataset.label_space)
    if config.label_shares and len(config.label_shares) != n_labels:
        raise InputError(
            f"label_shares has {len(config.label_shares)} numbers, but the data set has {n_labels} "
            f"labels ({', '.join(repr(label) for label in dataset.label_space)}); give one for each"
        )
    if config.initial_labels:
        _check_initial_labels(config.initial_labels, dataset)
    pairs, tables = dataset.constraint_arrays()
    return NativeEngine(len(dataset), n_labels, pairs, tables, **engine_settings(config))


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
        )
    )


def _check_initial_labels(labels: tuple[int, ...], dataset: Dataset) -> None:
    if len(labels) != len(dataset):
        raise InputError(
            f"initial_labels has {len(labels)} entries, but the data set has {len(dataset)} "
            "examples; give one for each, -1 where unlabelled"
        )
    n_labels = len(dataset.label_space)
    wrong = next((row for row, y in enumerate(labels) if y >= n_labels), None)
    if wrong is not None:
        raise InputError(
            f"initial_labels[{wrong}] = {labels[wrong]} is outside -1 .. {n_labels - 1}"
        )
    if max(labels) < 0:
        raise InputError("initial_labels label no example; label some, or use start=random")
