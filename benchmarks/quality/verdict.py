"""Fit the chance that labels are usable on an archive, and test it on tasks left out.

    python -m benchmarks.quality.verdict build/quality [-o benchmarks/results/verdict.json]

Labels are usable where they agree with gold by at least 0.4 of the way from chance to certainty. A
logistic regression on the signs of `icm_fast.engine.verdict` is fitted on all tasks but one and
judges the runs of that one; the weights in the package are those of the fit on all. Runs that asked
for texts after labels have one sign more and weights of their own; the others are judged by weights
that are fitted on all runs, without that sign.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.table import Run, auroc, read_archive
from icm_fast.engine.verdict import DOUBT_FROM, TRUST_FROM, Signs, usable_chance
from icm_fast.files import write_atomically

NAMES = ("alone", "among", "support", "tells")
TEXTS = (*NAMES, "texts")
USABLE = 0.4
_RIDGE = 0.3


def main() -> None:
    """Fit, test, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    runs = [run for run in read_archive(arguments.archive) if run["searches"][0]["signs"]]
    asked = np.array(["texts" in run["searches"][0]["signs"] for run in runs])
    plain, texts = (
        Fitted.of(runs, NAMES),
        Fitted.of([r for r, a in zip(runs, asked, strict=True) if a], TEXTS),
    )
    left_out = plain.left_out.copy()
    left_out[asked] = texts.left_out
    good, seeded = plain.good, np.array([run["start"] is not None for run in runs])
    package = np.array([usable_chance(Signs(**r["searches"][0]["signs"])) for r in runs])
    document: dict[str, Any] = {
        "command": "python -m benchmarks.quality.verdict " + " ".join(sys.argv[1:]),
        "runs": len(runs),
        "usable": int(good.sum()),
        "tasks": len({run["task"] for run in runs}),
        "without_texts": plain.content(),
        "with_texts": texts.content(),
        "left_out": judged(left_out, good, seeded),
        "package": judged(package, good, seeded),
    }
    print(json.dumps(document, indent=1))
    if arguments.output is not None:
        write_atomically(arguments.output, (json.dumps(document, indent=1) + "\n").encode())


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A fit on runs.

    Attributes:
        names: The signs.
        constant: Of the regression on all tasks.
        weights: ``[signs]``.
        left_out: ``[runs]`` chance by the fit on all tasks but that of the run.
        good: ``[runs]`` whether the labels are usable.
    """

    names: tuple[str, ...]
    constant: float
    weights: np.ndarray
    left_out: np.ndarray
    good: np.ndarray

    @classmethod
    def of(cls, runs: Sequence[Run], names: tuple[str, ...]) -> Fitted:
        """Fit on runs that have these signs."""
        signs = np.array([[r["searches"][0]["signs"][name] for name in names] for r in runs])
        tasks = np.array([run["task"] for run in runs])
        good = np.array([above_chance(run) >= USABLE for run in runs])
        left_out = np.empty(len(runs))
        for task in sorted(set(tasks)):
            constant, weights = fit(signs[tasks != task], good[tasks != task])
            left_out[tasks == task] = chances(constant, weights, signs[tasks == task])
        return cls(names, *fit(signs, good), left_out, good)

    def content(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "runs": len(self.good),
            "constant": round(self.constant, 2),
            "weights": dict(zip(self.names, np.round(self.weights, 2).tolist(), strict=True)),
            "left_out": {"auroc": round(auroc(self.left_out, self.good), 3)},
        }


def above_chance(run: dict[str, Any]) -> float:
    """Agreement with gold, 0 at chance and 1 where all labels agree."""
    chance = 1.0 / run["n_labels"]
    return (float(run["searches"][0]["agreement"]) - chance) / (1.0 - chance)


def fit(signs: np.ndarray, good: np.ndarray) -> tuple[float, np.ndarray]:
    """Constant and weights of a logistic regression with a small ridge, by Newton's method."""
    rows = np.column_stack([np.ones(len(signs)), signs])
    penalty = _RIDGE * np.diag([0.0, *np.ones(signs.shape[1])])
    weights = np.zeros(rows.shape[1])
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-rows @ weights))
        gradient = rows.T @ (good - p) - penalty @ weights
        curvature = (rows * (p * (1.0 - p))[:, None]).T @ rows + penalty
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[0]), weights[1:]


def chances(constant: float, weights: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Chance of each run."""
    found: np.ndarray = 1.0 / (1.0 + np.exp(-(constant + signs @ weights)))
    return found


def judged(chance: np.ndarray, good: np.ndarray, seeded: np.ndarray) -> dict[str, float | int]:
    """How well chances tell good labels from bad ones."""
    return {
        "auroc": round(auroc(chance, good), 3),
        "good_not_trusted": round(float((chance[good] < TRUST_FROM).mean()), 3),
        "bad_not_trusted": round(float((chance[~good] < TRUST_FROM).mean()), 3),
        "bad_rejected": round(float((chance[~good] < DOUBT_FROM).mean()), 3),
        "wrong_starts_that_stay_wrong": int((seeded & ~good).sum()),
        "wrong_starts_trusted": int((chance[seeded & ~good] >= TRUST_FROM).sum()),
    }


if __name__ == "__main__":
    main()
