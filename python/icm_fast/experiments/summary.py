"""From the results of all cells to figures of merit with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from icm_fast.evaluate import predict
from icm_fast.experiments.cell import CellResult
from icm_fast.experiments.definition import Column
from icm_fast.experiments.predicting import Prediction
from icm_fast.metrics import (
    accuracy,
    auc,
    balanced_accuracy,
    calibration_error,
    consistency,
    seeds_interval,
)
from icm_fast.types import Constraint, IntArray


def summarize_column(
    column: Column, methods: Sequence[str], cells: Sequence[CellResult]
) -> dict[str, Any]:
    """Figures of one column over its seeds, as plain JSON types.

    ``search`` holds every seed's facts; ``methods`` one entry per method with means over seeds,
    95 % intervals over seeds and groups (:func:`icm_fast.metrics.seeds_interval`), and each seed's
    accuracies.
    """
    return {
        "name": column.name,
        "task": column.task,
        "model": column.model,
        "n": column.n,
        "x": column.x,
        "n_test": len(cells[0].test["gold"]),
        "majority": float(np.mean([_majority(cell) for cell in cells])),
        "search": {"seeds": [{"seed": cell.seed, **cell.search} for cell in cells]},
        "orders": [{"seed": c.seed, **c.orders} for c in cells if c.orders is not None],
        "methods": {name: _method(name, cells) for name in methods},
    }


def _majority(cell: CellResult) -> float:
    """Accuracy of the most frequent gold label."""
    gold = np.array(cell.test["gold"])
    return float(np.bincount(gold).max() / len(gold))


def _method(name: str, cells: Sequence[CellResult]) -> dict[str, Any]:
    predictions = [cell.predictions[name] for cell in cells]
    reasons = [p.reason for p in predictions if p.scores is None]
    if reasons:
        return {"left_out": reasons[0]}
    scores = [np.array(p.scores, np.float32) for p in predictions]
    gold = [np.array(cell.test["gold"], np.int32) for cell in cells]
    groups = [cell.test["groups"] for cell in cells]
    found: dict[str, Any] = {
        "n_shots": _mean(predictions, lambda p: float(p.n_shots)),
        "labels_accuracy": _mean(predictions, lambda p: p.labels_accuracy),
        "n_tokens": _mean(predictions, lambda p: float(p.n_tokens)),
        "seconds": _mean(predictions, lambda p: p.seconds),
    }
    for kind in ("plain", "calibrated"):
        labels = [predict(s, calibrated=kind == "calibrated") for s in scores]
        found[kind] = {
            **_figures(labels, gold, groups),
            "consistency": _nan_mean(
                [consistency(y, _constraints(c)) for y, c in zip(labels, cells, strict=True)]
            ),
        }
    pairs = list(zip(scores, gold, strict=True))
    found["calibration_error"] = _nan_mean([calibration_error(s, g) for s, g in pairs])
    two = scores[0].shape[1] == 2
    found["auc"] = _nan_mean([auc(s, g) for s, g in pairs]) if two else None
    return found


def _figures(
    labels: Sequence[IntArray], gold: Sequence[IntArray], groups: Sequence[Sequence[str | None]]
) -> dict[str, Any]:
    pairs = list(zip(labels, gold, strict=True))
    values = [accuracy(y, g) for y, g in pairs]
    low, high = seeds_interval(labels, gold, groups)
    return {
        "accuracy": float(np.mean(values)),
        "interval": [low, high],
        "by_seed": values,
        "balanced_accuracy": float(np.mean([balanced_accuracy(y, g) for y, g in pairs])),
    }


def _constraints(cell: CellResult) -> list[Constraint]:
    """Constraints between the held-out examples."""
    return [Constraint(a, b, tuple(map(tuple, table))) for a, b, table in cell.test["pairs"]]


def _mean(
    predictions: Sequence[Prediction], value: Callable[[Prediction], float | None]
) -> float | None:
    values = [value(p) for p in predictions]
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _nan_mean(values: Sequence[float]) -> float | None:
    """Mean without NaNs, which JSON does not know; None if nothing is left."""
    known = [v for v in values if not np.isnan(v)]
    return float(np.mean(known)) if known else None
