"""The results of a benchmark as a picture; needs matplotlib."""

from __future__ import annotations

import io
from typing import Any

from icm_fast.errors import InputError

# Okabe and Ito's colours, which colour-blind people tell apart.
_COLOURS = {"ours": "#0072B2", "natural": "#E69F00"}
_OUR_COLOUR = "#009E73"


def figure_module() -> Any:
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


def png(figure: Any) -> bytes:
    """The bytes of a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def benchmark_plot(document: dict[str, Any]) -> bytes:
    """Bars of seconds on a logarithmic axis, PNG; peers without a right answer are left out."""
    peers = [peer for peer in document["peers"] if peer["status"] == "ok"]
    peers.sort(key=lambda peer: peer["seconds"]["median"], reverse=True)
    figure = figure_module().Figure(figsize=(8, 1.4 + 0.45 * len(peers)), layout="constrained")
    axes = figure.subplots()
    for row, peer in enumerate(peers):
        _bar(axes, row, peer)
    axes.set_yticks(range(len(peers)), [peer["name"] for peer in peers])
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.set_xlabel("seconds for one exact U(D), cold cache (logarithmic)")
    case = document["case"]
    axes.set_title(f"{case['name']}, {case['dtype']}, {document['threads']} threads")
    _legend(axes)
    return png(figure)


def _bar(axes: Any, row: int, peer: dict[str, Any]) -> None:
    seconds = peer["seconds"]
    middle = seconds["median"]
    colour = _OUR_COLOUR if peer["name"] == "ours" else _COLOURS[peer["order"]]
    hatch = "//" if seconds["extrapolated"] else None
    spread = [[middle - seconds["min"]], [seconds["max"] - middle]]
    axes.barh(row, middle, color=colour, hatch=hatch, edgecolor="white", height=0.7)
    axes.errorbar(middle, row, xerr=spread, color="black", capsize=3, linewidth=1)
    ratio = peer["ratio_to_ours"]
    text = f"{middle:.3g} s" + ("" if ratio is None else f", x {ratio:.1f}")
    axes.annotate(
        text, (seconds["max"], row), xytext=(6, 0), textcoords="offset points", va="center"
    )


def _legend(axes: Any) -> None:
    from matplotlib.patches import Patch

    axes.legend(
        handles=[
            Patch(facecolor=_OUR_COLOUR, label="icm_fast"),
            Patch(facecolor=_COLOURS["ours"], label="peer, our order"),
            Patch(facecolor=_COLOURS["natural"], label="peer, natural order"),
            Patch(facecolor="white", edgecolor="grey", hatch="//", label="extrapolated"),
        ],
        fontsize="small",
    )
