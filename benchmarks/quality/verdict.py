"""Fit the chance that labels are usable on an archive, and test it on tasks left out.

    python -m benchmarks.quality.verdict build/quality [-o benchmarks/results/verdict.json]

Labels are usable where they agree with gold by at least 0.4 of the way from chance to certainty. A
logistic regression on the signs of `icm_fast.engine.verdict` is fitted on all tasks but one and
judges the runs of that one; the weights in the package are those of the fit on all.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.table import auroc, read_archive
from icm_fast.engine.verdict import DOUBT_FROM, TRUST_FROM, Signs, usable_chance
from icm_fast.files import write_atomically

NAMES = ("alone", "among", "support", "tells")
USABLE = 0.4
_RIDGE = 0.3


def main() -> None:
    """Fit, test, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    runs = [run for run in read_archive(arguments.archive) if run["searches"][0]["signs"]]
    signs = np.array([[r["searches"][0]["signs"][name] for name in NAMES] for r in runs])
    tasks = np.array([run["task"] for run in runs])
    seeded = np.array([run["start"] is not None for run in runs])
    good = np.array([above_chance(run) >= USABLE for run in runs])
    left_out = np.empty(len(runs))
    for task in sorted(set(tasks)):
        constant, weights = fit(signs[tasks != task], good[tasks != task])
        left_out[tasks == task] = chances(constant, weights, signs[tasks == task])
    constant, weights = fit(signs, good)
    package = np.array([usable_chance(Signs(*row)) for row in signs.tolist()])
    document: dict[str, Any] = {
        "command": "python -m benchmarks.quality.verdict " + " ".join(sys.argv[1:]),
        "runs": len(runs),
        "usable": int(good.sum()),
        "tasks": len(set(tasks)),
        "constant": round(constant, 2),
        "weights": dict(zip(NAMES, np.round(weights, 2).tolist(), strict=True)),
        "left_out": judged(left_out, good, seeded),
        "package": judged(package, good, seeded),
    }
    print(json.dumps(document, indent=1))
    if arguments.output is not None:
        write_atomically(arguments.output, (json.dumps(document, indent=1) + "\n").encode())


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
