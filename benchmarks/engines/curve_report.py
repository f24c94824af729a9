"""The cost curve as Markdown and as a figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.engines.plot import png
from benchmarks.engines.table import markdown
from icm_fast.experiments.figures import figure_module

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("n", "seconds", "spread", "tokens", "GFLOP", "limit", "KV pool", "peak memory")
_MIB = 2**20


def curve_table(document: dict[str, Any]) -> str:
    """A heading, the table, the fitted exponents and what was left out."""
    case = document["case"]
    peak = document["matmul_flops_per_second"][case["dtype"]]
    fits = ", ".join(
        f"{name} n^{slope:.2f}"
        for name, slope in document["exponents"].items()
        if slope is not None
    )
    lines = [
        f"Our scorer, one exact U(D), cold: {case['model']}, {case['task']}, {case['dtype']}, "
        f"threads: {document['threads']}, repeats: {document['repeats']}; "
        f"{document['machine']['processor']}.",
        markdown(_COLUMNS, [_row(point, peak) for point in document["points"]]),
        f"Fitted over all sizes: {fits or 'two sizes are needed'}.",
        *(f"Left out, n = {n}: {why}" for n, why in document["left_out"].items()),
        f"Command: `{document['command']}`",
    ]
    return "\n\n".join([f"# {case['name']}", *lines])


def _row(point: dict[str, Any], peak: float) -> list[str]:
    seconds, flops = point["seconds"], point["flops"]["total"]
    return [
        str(point["n"]),
        f"{point['median_seconds']:.3g}",
        f"{min(seconds):.3g} to {max(seconds):.3g}",
        f"{point['tokens']:,}",
        f"{flops / 1e9:,.0f}",
        f"{flops / (point['median_seconds'] * peak):.2f}",
        f"{point['kv_pool_bytes'] / _MIB:,.0f} MiB",
        f"{point['peak_rss_bytes'] / _MIB:,.0f} MiB",
    ]


def curve_plot(document: dict[str, Any]) -> bytes:
    """Seconds, tokens, operations and memory over n, logarithmic axes, PNG."""
    figure = figure_module().Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    slopes = document["exponents"]
    _panel(axes[0, 0], document, "seconds (median)", slopes["seconds"], _SECONDS)
    _panel(axes[0, 1], document, "tokens forwarded", slopes["tokens"], _TOKENS)
    _panel(axes[1, 0], document, "operations (FLOP)", slopes["flops"], _FLOPS)
    _panel(axes[1, 1], document, "bytes", slopes["kv_pool_bytes"], _BYTES)
    case = document["case"]
    figure.suptitle(f"{case['model']}, {case['task']}, {case['dtype']}")
    return png(figure)


Value = Callable[[dict[str, Any]], float]
_SECONDS: dict[str, Value] = {"seconds": lambda p: p["median_seconds"]}
_TOKENS: dict[str, Value] = {
    "our tree": lambda p: p["tokens"],
    "whole prompts": lambda p: p["tokens_of_whole_prompts"],
}
_FLOPS: dict[str, Value] = {
    "linear": lambda p: p["flops"]["linear"],
    "attention": lambda p: p["flops"]["attention"],
}
_BYTES: dict[str, Value] = {
    "keys and values": lambda p: p["kv_pool_bytes"],
    "peak memory of the process": lambda p: p["peak_rss_bytes"],
}
# Okabe and Ito's colours, each with a marker for prints without colour.
_STYLES = (("#0072B2", "o"), ("#E69F00", "s"))


def _panel(
    axes: Axes, document: dict[str, Any], label: str, slope: float | None, lines: dict[str, Value]
) -> None:
    points = document["points"]
    sizes = [point["n"] for point in points]
    for (name, value), (colour, marker) in zip(lines.items(), _STYLES, strict=False):
        axes.plot(sizes, [value(p) for p in points], color=colour, marker=marker, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.set_xlabel("examples n")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if slope is not None:
        axes.set_title(f"fitted exponent {slope:.2f}", fontsize="medium")
    axes.legend(fontsize="small")
