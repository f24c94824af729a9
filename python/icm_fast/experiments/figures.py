"""The result of an experiment as a picture (PNG or SVG); needs matplotlib."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from icm_fast.errors import InputError
from icm_fast.experiments.documents import ColumnDocument, ExperimentDocument, MethodFigures, Point
from icm_fast.experiments.methods import METHODS
from icm_fast.files.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people can tell apart; one per source of labels.
_COLOURS = {
    "": "#999999",
    "icm": "#009E73",
    "golden": "#E69F00",
    "crowd": "#56B4E9",
    "perturbed": "#CC79A7",
    "bootstrapped": "#0072B2",
    "random-shots": "#F0E442",
    "balanced-bootstrapping": "#D55E00",
}
_MARKERS = "osD^vPX*"
_PANELS_PER_ROW = 4


def experiment_figure(document: ExperimentDocument, kind: str) -> bytes:
    """The picture of a result document.

    Args:
        document: What the experiment wrote as JSON.
        kind: ``png`` or ``svg``.

    Raises:
        InputError: matplotlib is not installed.
    """
    draw = _bars if document["figure"] == "bars" else _lines
    figure = draw(document)
    buffer = io.BytesIO()
    # No date in the file: the same result is the same picture.
    metadata = {"Software": None} if kind == "png" else {"Date": None}
    figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _bars(document: ExperimentDocument) -> Figure:
    """A panel per column: accuracy as a bar with its interval, calibrated accuracy as a diamond."""
    columns = document["columns"]
    rows = _panel_rows(columns)
    per_row = max(map(len, rows))
    shown = [
        [name for name in _methods(columns) if any(_figures_of(c, name) is not None for c in row)]
        for row in rows
    ]
    heights = [0.9 + 0.27 * max(2, len(names)) for names in shown]
    figure: Figure = figure_module().Figure(
        figsize=(max(7.5, 2.2 + 2.7 * per_row), 1.6 + sum(heights)), layout="constrained"
    )
    panels = figure.subplots(
        len(rows), per_row, sharex=True, sharey="row", squeeze=False, height_ratios=heights
    )
    for line, row in enumerate(rows):
        for place, axes in enumerate(panels[line]):
            if place >= len(row):
                axes.set_axis_off()
                continue
            _bar_panel(axes, row[place], shown[line])
            if line + 1 == len(rows) or place >= len(rows[line + 1]):
                axes.tick_params(axis="x", labelbottom=True)
                axes.set_xlabel("accuracy, held out")
    figure.suptitle(printable(document["title"]), fontsize=11, parse_math=False)
    tuned = any(METHODS[name].use == "tuned" for c in document["columns"] for name in c["methods"])
    _bar_legend(figure, n_columns=4 if per_row > 2 else 2, tuned=tuned)
    return figure


def _methods(columns: Sequence[ColumnDocument]) -> list[str]:
    return list(dict.fromkeys(name for column in columns for name in column["methods"]))


def _panel_rows(columns: Sequence[ColumnDocument]) -> list[list[ColumnDocument]]:
    """Columns by rows of panels; those of few methods apart, so that their panels can be low."""
    many = len(_methods(columns)) / 2
    apart = [[c for c in columns if (len(c["methods"]) < many) == low] for low in (False, True)]
    return [
        list(part[start : start + _PANELS_PER_ROW])
        for part in apart
        for start in range(0, len(part), _PANELS_PER_ROW)
    ]


def _bar_panel(axes: Axes, column: ColumnDocument, shown: list[str]) -> None:
    for row, name in enumerate(shown):
        method = _figures_of(column, name)
        if method is None:
            why = "not applicable" if name in column["methods"] else "not run"
            axes.annotate(why, (0.02, row), va="center", fontsize=7, color="grey")
            continue
        plain = method["plain"]
        value, (low, high) = plain["accuracy"], plain["interval"]
        axes.barh(
            row,
            value,
            height=0.75,
            color=_COLOURS[METHODS[name].labels],
            hatch="///" if METHODS[name].use == "tuned" else None,
            edgecolor="white",
            xerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
            error_kw={"elinewidth": 1, "capsize": 2},
        )
        axes.plot(
            method["calibrated"]["accuracy"], row, marker="D", color="black", ms=4, mfc="white"
        )
    axes.axvline(column["majority"], color="black", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(shown)), [METHODS[name].title for name in shown], fontsize=8)
    axes.set_ylim(max(1, len(shown)) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks((0, 0.25, 0.5, 0.75, 1))
    axes.tick_params(axis="x", labelsize=8)
    title = printable(f"{column['name']}\n{column['model']}, n = {column['n']}")
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _bar_legend(figure: Figure, n_columns: int, *, tuned: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    hatched = Patch(facecolor="grey", hatch="///", edgecolor="white", label="after fine-tuning")
    handles = [
        Patch(facecolor="grey", label="accuracy, with its 95 % interval"),
        *([hatched] if tuned else []),
        Line2D([], [], color="black", marker="D", mfc="white", ms=4, ls="", label="calibrated"),
        Line2D([], [], color="black", ls=":", lw=1, label="most frequent label"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=n_columns, fontsize=8)


def _lines(document: ExperimentDocument) -> Figure:
    """Calibrated accuracy of each method, and the labels' own agreement with gold, over ``x``."""
    columns = sorted(document["columns"], key=_x)
    figure: Figure = figure_module().Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    lines = _line_points(columns)
    place = Places([_x(column) for column in columns], len(lines), log=document["log_x"])
    for k, line in enumerate(lines):
        _line(axes, line, [(place.of(x, k), point) for x, point in line.points])
    if document["log_x"]:
        axes.set_xscale("log")
    ticks = [_x(column) for column in columns]
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.minorticks_off()
    axes.set_xlabel(document["x_label"])
    axes.set_ylabel("accuracy, agreement")
    axes.set_title(printable(document["title"]), fontsize=11, parse_math=False)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


class Places:
    """Places for the points of several lines: side by side, so that intervals do not overlap.

    Args:
        xs: Values on the axis.
        n_lines: Number of lines.
        log: Whether the axis is logarithmic.
    """

    def __init__(self, xs: Sequence[float], n_lines: int, *, log: bool) -> None:
        self._log = log
        ends = [math.log(x) if log else x for x in (min(xs), max(xs))]
        self._step = 0.012 * ((ends[1] - ends[0]) or 1.0)
        self._middle = (n_lines - 1) / 2

    def of(self, x: float, line: int) -> float:
        """Place of the point of a line at ``x``."""
        apart = (line - self._middle) * self._step
        return x * math.exp(apart) if self._log else x + apart


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a figure: its look, and its points over ``x``."""

    label: str
    colour: str
    marker: str
    style: str
    points: list[tuple[float, Point]]


def _line_points(columns: Sequence[ColumnDocument]) -> list[_Line]:
    """A line for each method, and one for the found labels.

    Where columns share an ``x``, each model has its own lines; otherwise, as over model sizes,
    lines run through all models.
    """
    shared = len({_x(column) for column in columns}) < len(columns)
    models = list(dict.fromkeys(column["model"] for column in columns)) if shared else [None]
    lines = []
    for model, style in zip(models, itertools.cycle(("-", ":", "-.")), strict=False):
        own = [c for c in columns if model is None or c["model"] == model]
        ending = f", {model}" if len(models) > 1 else ""
        names = dict.fromkeys(name for column in own for name in column["methods"])
        for k, name in enumerate(names):
            method = METHODS[name]
            points: list[tuple[float, Point]] = [
                (_x(column), figures["calibrated"])
                for column in own
                if (figures := _figures_of(column, name)) is not None
            ]
            if points:
                label = f"{method.title}, calibrated accuracy{ending}"
                marker = _MARKERS[k % len(_MARKERS)]
                lines.append(_Line(label, _COLOURS[method.labels], marker, style, points))
        found = [(_x(column), _agreement(column)) for column in own]
        label = f"found labels, agreement with gold{ending}"
        lines.append(_Line(label, "black", "x", "--" if style == "-" else style, found))
    return lines


def _line(axes: Axes, line: _Line, points: list[tuple[float, Point]]) -> None:
    xs = [x for x, _ in points]
    values = [p["accuracy"] for _, p in points]
    below = [max(0.0, v - p["interval"][0]) for v, (_, p) in zip(values, points, strict=True)]
    above = [max(0.0, p["interval"][1] - v) for v, (_, p) in zip(values, points, strict=True)]
    axes.errorbar(
        xs,
        values,
        yerr=[below, above],
        color=line.colour,
        marker=line.marker,
        ls=line.style,
        capsize=3,
        label=line.label,
    )


def _figures_of(column: ColumnDocument, name: str) -> MethodFigures | None:
    """The figures of a method; None if the column does not have it or left it out."""
    method = column["methods"].get(name)
    return None if method is None or "left_out" in method else method


def _x(column: ColumnDocument) -> float:
    x = column["x"]
    assert x is not None  # the definition of a figure of lines needs it
    return x


def _agreement(column: ColumnDocument) -> Point:
    """Mean over the seeds, with the range of the seeds."""
    values = [seed["agreement"] for seed in column["search"]["seeds"]]
    return {"accuracy": sum(values) / len(values), "interval": [min(values), max(values)]}


def figure_module() -> ModuleType:
    """Matplotlib's figure module; no display is needed.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib import figure
    except ImportError as error:
        raise InputError(
            "the plot needs matplotlib, which is not installed; run `pip install icm-fast[bench]`"
        ) from error
    return figure
