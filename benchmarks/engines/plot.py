"""The results of a benchmark as a figure; needs matplotlib."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from icm_fast.experiments.figures import figure_module

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can distinguish.
_COLOURS = {"ours": "#0072B2", "natural": "#E69F00"}
_OUR_COLOUR = "#009E73"
_LABELLED_RANGE = 20
"""Axes with a larger ratio are labelled at powers of ten only, so that labels do not overlap."""


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def benchmark_plot(document: dict[str, Any]) -> bytes:
    """Seconds on a logarithmic axis, PNG; peers without correct answers are left out."""
    peers = [peer for peer in document["peers"] if peer["status"] == "ok"]
    peers.sort(key=lambda peer: peer["seconds"]["median"], reverse=True)
    figure = figure_module().Figure(figsize=(8, 1.8 + 0.4 * len(peers)), layout="constrained")
    axes = figure.subplots()
    for row, peer in enumerate(peers):
        _mark(axes, row, peer)
    _axes(axes, [peer["name"] for peer in peers])
    case = document["case"]
    axes.set_title(f"{case['name']}, {case['dtype']}, threads: {document['threads']}")
    _legend(axes)
    return png(figure)


def _mark(axes: Axes, row: int, peer: dict[str, Any]) -> None:
    """One peer: median and spread; a hollow mark if the time is extrapolated."""
    seconds = peer["seconds"]
    middle = seconds["median"]
    colour = _OUR_COLOUR if peer["name"] == "ours" else _COLOURS[peer["order"]]
    spread = [[middle - seconds["min"]], [seconds["max"] - middle]]
    filling = "none" if seconds["extrapolated"] else "full"
    axes.errorbar(
        middle,
        row,
        xerr=spread,
        color=colour,
        marker="o",
        markersize=8,
        fillstyle=filling,
        capsize=4,
    )
    ratio = peer["ratio_to_ours"]
    text = f"{middle:.3g} s" + ("" if ratio is None else f", x {ratio:.2g}")
    axes.annotate(
        text, (seconds["max"], row), xytext=(9, 0), textcoords="offset points", va="center"
    )


def _axes(axes: Axes, names: list[str]) -> None:
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xscale("log")
    left, right = axes.get_xlim()
    axes.set_xlim(left, right * (right / left) ** 0.25)  # room for the last number
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    few = right / left < _LABELLED_RANGE
    axes.xaxis.set_minor_formatter(StrMethodFormatter("{x:g}") if few else NullFormatter())
    axes.grid(axis="x", which="both", alpha=0.3)
    axes.set_xlabel("seconds for one exact U(D), cold cache (logarithmic axis)")


def _legend(axes: Axes) -> None:
    from matplotlib.lines import Line2D

    kinds = [
        ("icm_fast", _OUR_COLOUR, "full"),
        ("peer, our order", _COLOURS["ours"], "full"),
        ("peer, natural order", _COLOURS["natural"], "full"),
        ("extrapolated", "grey", "none"),
    ]
    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", fillstyle=fill, label=label)
        for label, colour, fill in kinds
    ]
    axes.figure.legend(handles=handles, fontsize="small", loc="outside lower center", ncols=4)
