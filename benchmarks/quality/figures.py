"""Figures of docs/method.md: ``python -m benchmarks.quality.figures ARCHIVE docs/images``."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.quality.table import GOLDEN_WORKS, Run, by_cell, read_archive
from benchmarks.quality.verdict import USABLE, above_chance
from icm_fast.engine.verdict import DOUBT_FROM, TRUST_FROM, Signs, usable_chance

mpl.use("Agg")
from matplotlib import pyplot as plt

_SIZE = (6.4, 3.6)
_INK, _ACCENT, _CARE = "#1d2430", "#0b63b6", "#b3591a"


def main(archive: Path, images: Path) -> None:
    """Draw all."""
    runs = read_archive(archive)
    bench = [run for run in runs if "bootstrapping" in run]
    works = [
        run
        for group in by_cell(bench).values()
        if np.mean([r["golden"] for r in group]) > GOLDEN_WORKS
        for run in group
    ]
    images.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"font.size": 9, "text.color": _INK, "axes.edgecolor": "#b8bec8"})
    seeded = [run for run in runs if run["start"] is not None]
    _searches(works + seeded, images / "quality-search-light.png")
    _coverage(works, images / "quality-coverage-light.png")
    _verdict(runs, images / "quality-verdict-light.png")


def _axes(x: str, y: str) -> tuple[plt.Figure, plt.Axes]:
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#e6e9ee", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _searches(runs: list[Run], path: Path) -> None:
    figure, axes = _axes("U(D) less U(gold)", "agreement with gold")
    for run in runs:
        points = np.array(run["searches"][0]["visited"]) - [run["golden_utility"], 0.0]
        if run["start"] is None:
            axes.plot(*points[-1], "o", color=_ACCENT, ms=4.5)
        else:
            axes.plot(*points.T, color=_CARE, alpha=0.5, lw=1)
            axes.plot(*points.T, ".", color=_CARE, ms=4)
    axes.plot([], [], "o", color=_ACCENT, ms=4.5, label="default, a dot for each search")
    axes.plot([], [], ".-", color=_CARE, ms=4, label="searches that start from wrong labels")
    axes.axvline(0.0, color=_INK, lw=0.8, ls=":")
    axes.legend(frameon=False, loc="lower right")
    _save(figure, path)


def _coverage(runs: list[Run], path: Path) -> None:
    figure, axes = _axes("share of the labels, the most confident first", "agreement with gold")
    shares = np.linspace(0.2, 1.0, 17)
    curves = []
    for run in runs:
        labels, gold = (np.array(v) for v in (run["searches"][0]["labels"], run["gold"]))
        order = np.argsort(-np.array(run["searches"][0]["confidence"]), kind="stable")
        order = order[gold[order] >= 0]
        right = (labels == gold)[order]
        curves.append([right[: max(1, round(s * len(right)))].mean() for s in shares])
    mean, error = np.mean(curves, axis=0), np.std(curves, axis=0) / np.sqrt(len(curves))
    axes.fill_between(shares, mean - 1.96 * error, mean + 1.96 * error, color=_ACCENT, alpha=0.15)
    axes.plot(shares, mean, color=_ACCENT, lw=2)
    _save(figure, path)


def _verdict(runs: list[Run], path: Path) -> None:
    figure, axes = _axes("chance by the verdict", "agreement with gold above chance")
    for run in runs:
        signs = run["searches"][0]["signs"]
        if signs is None:
            continue
        chance = usable_chance(Signs(**signs))
        seeded = run["start"] is not None
        axes.plot(
            chance,
            above_chance(run),
            "x" if seeded else "o",
            color=_CARE if seeded else _ACCENT,
            ms=4.5,
        )
    for limit in (DOUBT_FROM, TRUST_FROM):
        axes.axvline(limit, color=_INK, lw=0.8, ls=":")
    axes.axhline(USABLE, color=_INK, lw=0.8, ls=":")
    axes.plot([], [], "o", color=_ACCENT, ms=4.5, label="search")
    axes.plot([], [], "x", color=_CARE, ms=4.5, label="search from wrong labels")
    axes.set_xlim(0.0, 1.0)
    axes.legend(frameon=False, loc="lower right")
    _save(figure, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
