"""The figures of a report as files, PNG and SVG; needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from icm_fast.errors import InputError
from icm_fast.experiments.figures import figure_module
from icm_fast.files import write_atomically, writing
from icm_fast.files.text import printable
from icm_fast.reports.content import Bars, Columns, Figure, Lines, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

KINDS = ("png", "svg")

# The page's colours in its light scheme; the lines beyond the first are Okabe and Ito's, darkened.
_FIRST, _SECOND, _TRACK, _GRID = "#0b6b66", "#8b939c", "#eff0f1", "#e2e4e6"
_LINES = (_FIRST, "#c4560a", "#0072b2", "#a8487f", "#8a6a00", "#4c535b")
_DASHES = ("-", (0, (6, 3)), (0, (2, 2.5)), (0, (9, 3, 2, 3)), (0, (12, 4)), (0, (4, 4)))


def write_pictures(report: Report, folder: Path) -> list[Path]:
    """Write every figure of a report as ``KEY.png`` and ``KEY.svg``.

    Args:
        report: The report.
        folder: Created when absent.

    Returns:
        The files.

    Raises:
        InputError: matplotlib is not installed, or the folder cannot be written.
    """
    figure_module()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not report.figures:
        raise InputError("this report has no figures; leave out --figures")
    return list(_write(report, folder))


def _write(report: Report, folder: Path) -> Iterator[Path]:
    for figure in report.figures:
        for kind in KINDS:
            path = folder / f"{figure.key}.{kind}"
            write_atomically(path, picture(figure, kind))
            yield path


def picture(figure: Figure, kind: str) -> bytes:
    """A figure as the bytes of a file, the same for equal figures.

    Args:
        figure: The figure.
        kind: ``png`` or ``svg``.

    Raises:
        InputError: matplotlib is not installed.
    """
    import matplotlib as mpl

    height = 0.7 + 0.36 * len(figure.names) if isinstance(figure, Bars) else 3.3
    with mpl.rc_context({"svg.hashsalt": figure.key, "font.size": 9}):
        drawn: Picture = figure_module().Figure(figsize=(6.0, height), layout="constrained")
        axes = drawn.subplots()
        _draw(axes, figure)
        axes.set_title(printable(figure.title), loc="left", fontsize=10, parse_math=False)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0)
        axes.set_axisbelow(True)
        buffer = io.BytesIO()
        # No date in the file: the same figure is the same picture.
        metadata = {"Software": None} if kind == "png" else {"Date": None}
        drawn.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()


def _draw(axes: Axes, figure: Figure) -> None:
    if isinstance(figure, Bars):
        _bars(axes, figure)
    elif isinstance(figure, Columns):
        _columns(axes, figure)
    else:
        _lines(axes, figure)


def _bars(axes: Axes, figure: Bars) -> None:
    places = range(len(figure.names))
    limit = figure.limit or max((*figure.values, *(high for _, high in figure.intervals)))
    axes.barh(places, [limit] * len(figure.names), height=0.7, color=_TRACK)
    axes.barh(places, figure.values, height=0.7, color=_FIRST)
    for place, (low, high) in enumerate(figure.intervals):
        axes.plot((low, high), (place, place), color="black", lw=1, marker="|", ms=5)
    for place, shown in zip(places, figure.shown, strict=True):
        text = printable(shown)
        axes.text(limit * 1.02, place, text, va="center", fontsize=8, parse_math=False)
    names = [printable(name[:40]).replace("$", r"\$") for name in figure.names]
    axes.set_yticks(list(places), names)
    axes.set_xticks([])
    axes.invert_yaxis()
    axes.spines["bottom"].set_visible(False)


def _columns(axes: Axes, figure: Columns) -> None:
    starts = figure.edges[:-1]
    widths = [end - start for start, end in zip(starts, figure.edges[1:], strict=True)]
    below = [0.0] * len(starts)
    for (name, counts), colour in zip(figure.series, (_FIRST, _SECOND), strict=False):
        axes.bar(
            starts,
            counts,
            widths,
            below,
            align="edge",
            color=colour,
            edgecolor="white",
            linewidth=0.5,
            label=name,
        )
        below = [a + b for a, b in zip(below, counts, strict=True)]
    _name_axes(axes, figure)
    if len(figure.series) > 1:
        axes.legend(frameon=False, fontsize=8)


def _lines(axes: Axes, figure: Lines) -> None:
    for s, series in enumerate(figure.series):
        axes.plot(
            [x for x, _ in series.points],
            [y for _, y in series.points],
            color=_LINES[s],
            linestyle=_DASHES[s] if series.joined else "",
            marker="o" if series.markers else "",
            markersize=4,
            linewidth=1.6,
            label=printable(series.name).replace("$", r"\$"),
        )
    if figure.reference is not None:
        axes.axline((0, 0), slope=1, color=_SECOND, lw=1, ls=":", label=figure.reference)
    if figure.x_range is not None:
        axes.set_xlim(*figure.x_range)
    if figure.y_range is not None:
        axes.set_ylim(*figure.y_range)
    _name_axes(axes, figure)
    if len(figure.series) > 1 or figure.reference is not None:
        axes.legend(frameon=False, fontsize=8)


def _name_axes(axes: Axes, figure: Columns | Lines) -> None:
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    axes.grid(axis="y", color=_GRID)
