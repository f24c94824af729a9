"""From the results of all cells to figures of merit with intervals."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from icm_fast.evaluation.many_shot import predict
from icm_fast.evaluation.metrics import (
    accuracy,
    auc,
    balanced_accuracy,
    calibration_error,
    consistency,
    seeds_interval,
)
from icm_fast.experiments.cell import CellResult
from icm_fast.experiments.documents import (
    Accuracies,
    ColumnDocument,
    Difference,
    Kind,
    MethodAccuracies,
    MethodDifference,
    MethodDocument,
)
from icm_fast.experiments.experiment import Column
from icm_fast.experiments.predicting import Prediction
from icm_fast.types import UNLABELLED, Constraint, FloatArray, IntArray

_COMPARED = (
    *(("icm", other) for other in ("golden", "crowd", "perturbed", "bootstrapped", "zero-shot")),
    *(("icm", other) for other in ("random-shots", "balanced-bootstrapping")),
    *(("icm-tuned", other) for other in ("golden-tuned", "crowd-tuned", "perturbed-tuned")),
    ("icm-tuned", "icm"),
)
"""Pairs of methods whose difference is of interest."""


def summarize_column(
    column: Column, methods: Sequence[str], cells: Sequence[CellResult]
) -> ColumnDocument:
    """Figures of one column over its seeds, as plain JSON types.

    ``search`` holds every seed's facts; ``methods`` one entry per method with means over seeds,
    95 % intervals over seeds and groups (:func:`icm_fast.evaluation.metrics.seeds_interval`),
    and each seed's accuracies; ``differences`` those of pairs of methods on the same examples.
    The calibration of predictions is not repeated inside an interval.
    """
    return {
        "name": column.name,
        "task": column.task,
        "model": column.model,
        "n": column.n,
        "x": _millions(cells) if isinstance(column.x, str) else column.x,
        "definition": _definition(column),
        "identities": [{"seed": cell.seed, **cell.identity} for cell in cells],
        "n_test": len(cells[0].test["gold"]),
        "majority": float(np.mean([_majority(cell) for cell in cells])),
        "search": {"seeds": [{"seed": cell.seed, **cell.search} for cell in cells]},
        "orders": [{"seed": c.seed, **c.orders} for c in cells if c.orders is not None],
        "methods": {name: _method(name, cells) for name in methods},
        "differences": [
            found
            for one, other in _COMPARED
            if one in methods
            and other in methods
            and (found := _compare(one, other, cells)) is not None
        ],
    }


def _definition(column: Column) -> dict[str, object]:
    """What the experiment's file says of a column, without what is stored next to it."""
    content: dict[str, object] = json.loads(json.dumps(asdict(column), default=dict))
    return {key: content[key] for key in content if key not in ("name", "model_title", "x")}


def _millions(cells: Sequence[CellResult]) -> float:
    return round(float(cells[0].search["n_parameters"]) / 1e6, 1)


def _compare(one: str, other: str, cells: Sequence[CellResult]) -> MethodDifference | None:
    """Difference of two methods' accuracies; None where one of them was left out."""
    if any(cell.predictions[name].scores is None for cell in cells for name in (one, other)):
        return None
    groups = [_groups(cell) for cell in cells]

    def difference(kind: Kind) -> Difference:
        apart = [_right(cell, one, kind) - _right(cell, other, kind) for cell in cells]
        mean = float(np.mean([np.nanmean(values) for values in apart]))
        return {"difference": mean, "interval": list(seeds_interval(apart, groups))}

    return {
        "method": one,
        "against": other,
        "plain": difference("plain"),
        "calibrated": difference("calibrated"),
    }


def _right(cell: CellResult, name: str, kind: Kind) -> FloatArray:
    """1 where a method is right, 0 where it is wrong, NaN without gold; ``[n]``."""
    scores = np.array(cell.predictions[name].scores, np.float32)
    gold = np.array(cell.test["gold"], np.int32)
    labels = predict(scores, calibrated=kind == "calibrated")
    return np.where(gold == UNLABELLED, np.nan, (labels == gold).astype(np.float64))


def _groups(cell: CellResult) -> list[tuple[str, str]]:
    """A key for the group of each test example; the same under every seed."""
    return [
        ("alone", i) if group is None else ("group", group)
        for i, group in zip(cell.test["ids"], cell.test["groups"], strict=True)
    ]


def _majority(cell: CellResult) -> float:
    """Accuracy of the most frequent gold label."""
    gold = np.array(cell.test["gold"])
    return float(np.bincount(gold).max() / len(gold))


def _method(name: str, cells: Sequence[CellResult]) -> MethodDocument:
    predictions = [cell.predictions[name] for cell in cells]
    reasons = [p.reason for p in predictions if p.scores is None]
    if reasons:
        return {"left_out": reasons[0]}
    scores = [np.array(p.scores, np.float32) for p in predictions]
    gold = [np.array(cell.test["gold"], np.int32) for cell in cells]
    pairs = list(zip(scores, gold, strict=True))
    two = scores[0].shape[1] == 2
    return {
        "n_shots": _mean(predictions, lambda p: float(p.n_shots)),
        "labels_accuracy": _mean(predictions, lambda p: p.labels_accuracy),
        "n_tokens": _mean(predictions, lambda p: float(p.n_tokens)),
        "seconds": _mean(predictions, lambda p: p.seconds),
        "plain": _method_accuracies(name, "plain", cells),
        "calibrated": _method_accuracies(name, "calibrated", cells),
        "calibration_error": _nan_mean([calibration_error(s, g) for s, g in pairs]),
        "auc": _nan_mean([auc(s, g) for s, g in pairs]) if two else None,
    }


def _method_accuracies(name: str, kind: Kind, cells: Sequence[CellResult]) -> MethodAccuracies:
    labels = [
        predict(np.array(c.predictions[name].scores, np.float32), calibrated=kind == "calibrated")
        for c in cells
    ]
    gold = [np.array(cell.test["gold"], np.int32) for cell in cells]
    groups = [_groups(cell) for cell in cells]
    return {
        **_accuracies(labels, gold),
        "interval": list(seeds_interval([_right(c, name, kind) for c in cells], groups)),
        "consistency": _nan_mean(
            [consistency(y, _constraints(c)) for y, c in zip(labels, cells, strict=True)]
        ),
    }


def _accuracies(labels: Sequence[IntArray], gold: Sequence[IntArray]) -> Accuracies:
    pairs = list(zip(labels, gold, strict=True))
    values = [accuracy(y, g) for y, g in pairs]
    return {
        "accuracy": float(np.mean(values)),
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
