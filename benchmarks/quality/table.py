"""Paired comparison of what `benchmarks.quality.archive` kept: a table with 95 % intervals.

    python -m benchmarks.quality.table build/quality [-o benchmarks/results/quality.json]

A cell counts for the comparison where golden demonstrations work: where leave-one-out predictions
from gold labels are right in more than 0.70, calibrated, in the mean of its seeds. Intervals are
bootstrap over cells and, within a cell, over seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icm_fast.files import write_atomically
from icm_fast.runs.provenance import machine_facts

GOLDEN_WORKS = 0.70
REVIEWS = ("reviews", "longer reviews")
"""Cells of single reviews."""
_DRAWS = 10_000

Run = dict[str, Any]
Value = Callable[[Run], float]


def main() -> None:
    """Print the tables and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    runs = read_archive(arguments.archive)
    compared = [run for run in runs if "bootstrapping" in run]
    cells = by_cell(compared)
    found = summary(cells)
    print("\n".join(lines(cells, found)))
    if arguments.output is not None:
        document = {
            "command": "python -m benchmarks.quality.table " + " ".join(sys.argv[1:]),
            "machine": machine_facts(),
            "versions": runs[0]["versions"],
            "cells": [cell_content(name, group) for name, group in cells.items()],
            **found,
        }
        write_atomically(arguments.output, (json.dumps(document, indent=1) + "\n").encode())


def read_archive(folder: Path) -> list[Run]:
    """All runs, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def by_cell(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by task and model."""
    cells: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        cells[f"{run['cell']}, {run['model']}"].append(run)
    return dict(cells)


def searched(run: Run) -> float:
    """Agreement of the search with gold."""
    return float(run["searches"][0]["agreement"])


def gain(other: str) -> Value:
    """Points of agreement by which a search is above another method."""
    return lambda run: 100.0 * (searched(run) - float(run[other]))


def cell_content(name: str, group: Sequence[Run]) -> dict[str, Any]:
    """The means of a cell."""
    searches = [run["searches"][0] for run in group]
    mean = {
        key: round(float(np.mean([run[key] for run in group])), 4)
        for key in ("zero_shot", "zero_shot_plain", "golden", "bootstrapping", "random_shots")
    }
    return {
        "cell": name,
        "seeds": [run["seed"] for run in group],
        "works": mean["golden"] > GOLDEN_WORKS,
        "search": round(float(np.mean([s["agreement"] for s in searches])), 4),
        "tokens": round(float(np.mean([s["tokens"] for s in searches]))),
        "bootstrapping_tokens": round(float(np.mean([r["bootstrapping_tokens"] for r in group]))),
        "n": group[0]["n"],
        **mean,
    }


def interval(cells: Sequence[Sequence[Run]], value: Value) -> tuple[float, float, float]:
    """Mean of the means of cells, and its 95 % interval."""
    rng = np.random.default_rng(0)
    values = [np.array([value(run) for run in group]) for group in cells]
    draws = [
        np.mean(
            [
                rng.choice(values[k], len(values[k])).mean()
                for k in rng.integers(len(values), size=len(values))
            ]
        )
        for _ in range(_DRAWS)
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(np.mean([v.mean() for v in values])), float(low), float(high)


def summary(cells: dict[str, list[Run]]) -> dict[str, Any]:
    """Differences over the cells in which golden demonstrations work, and what searches visit."""
    groups = [g for g in cells.values() if np.mean([r["golden"] for r in g]) > GOLDEN_WORKS]
    runs = [run for group in groups for run in group]
    gains = {}
    for other in ("bootstrapping", "zero_shot", "random_shots", "golden"):
        mean, low, high = interval(groups, gain(other))
        worst = min(float(np.mean([gain(other)(r) for r in group])) for group in groups)
        gains[other] = {
            "mean": round(mean, 2),
            "interval": [round(low, 2), round(high, 2)],
            "worst_cell": round(worst, 2),
        }
    regret = [max(a for _, a in r["searches"][0]["visited"]) - searched(r) for r in runs]
    gold_above = [r["golden_utility"] >= r["searches"][0]["utility"] for r in runs]
    per_label = [r["searches"][0]["tokens"] / r["n"] for r in runs]
    return {
        "n_cells": len(groups),
        "gains": gains,
        "best_visited_above": abs(round(100.0 * float(np.mean(regret)), 2)),
        "gold_utility_above": round(float(np.mean(gold_above)), 3),
        "tokens_per_label": round(float(np.mean(per_label)), 1),
        "confidence": confidence(runs),
        "confidence_of_reviews": confidence([run for run in runs if run["cell"] in REVIEWS]),
    }


def confidence(runs: Sequence[Run]) -> dict[str, float]:
    """How well confidence ranks labels: AUROC of right ones, and agreement of the surer 0.75."""
    areas, gains = [], []
    for run in runs:
        labels, gold = (np.array(v) for v in (run["searches"][0]["labels"], run["gold"]))
        sure = np.array(run["searches"][0]["confidence"])
        known = gold >= 0
        right, sure = (labels == gold)[known], sure[known]
        if right.all() or not right.any():
            continue
        areas.append(auroc(sure, right))
        kept = np.argsort(-sure, kind="stable")[: round(0.75 * len(sure))]
        gains.append(100.0 * (right[kept].mean() - right.mean()))
    return {
        "auroc": round(float(np.mean(areas)), 3),
        "points_at_three_quarters": round(float(np.mean(gains)), 2),
    }


def auroc(values: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive one has the greater value; ties count half."""
    above = values[positive][:, None] - values[~positive][None, :]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def lines(cells: dict[str, list[Run]], found: dict[str, Any]) -> list[str]:
    """The table and what follows from it."""
    rows = [
        "| cell | seeds | golden | zero-shot | random shots | bootstrapping | search | tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, group in cells.items():
        c = cell_content(name, group)
        ending = "" if c["works"] else " (does not count)"
        rows.append(
            f"| {name}{ending} | {len(group)} | {c['golden']:.3f} "
            f"| {c['zero_shot']:.3f} | {c['random_shots']:.3f} | {c['bootstrapping']:.3f} "
            f"| {c['search']:.3f} | {c['tokens']:,} |"
        )
    for other, g in found["gains"].items():
        low, high = g["interval"]
        rows.append(
            f"search - {other}: {g['mean']:+.2f} [{low:+.2f}, {high:+.2f}], worst cell "
            f"{g['worst_cell']:+.2f}"
        )
    rest = {k: v for k, v in found.items() if k != "gains"}
    return [*rows, json.dumps(rest)]


if __name__ == "__main__":
    main()
