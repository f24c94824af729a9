"""Figures as SVG that stands inside a page.

Colours come from the page's style, so that a figure follows its light and dark scheme. Equal
figures are equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from icm_fast.files.text import printable
from icm_fast.reports.content import Bars, Columns, Figure, Lines

WIDTH = 420
_HEIGHT = 230
_TOP, _BOTTOM, _RIGHT = 26, 42, 14
_CHARACTER = 7.0
"""Width of a digit of a tick label in units of the figure, as phones show them."""

_BAR = 30
_WIDE = 7.6
"""Width of a character of a name, as phones show it."""

_NAME_CHARACTERS = 18
_MOST_POINTS = 300
"""Points of a line beyond which neighbours would fall on the same pixel."""


def safe(text: object) -> str:
    """A text of anybody as HTML or SVG: markup and characters that cannot be seen are escaped."""
    return escape(visible(str(text)), quote=True)


def visible(text: str) -> str:
    """A text with signs that cannot be seen as escapes, and with line feeds as line breaks."""
    return printable(text.replace("\r\n", "\n"))


def figure_svg(figure: Figure) -> str:
    """A figure as an ``svg`` element with a title and a description."""
    if isinstance(figure, Bars):
        return _bars(figure)
    return _columns(figure) if isinstance(figure, Columns) else _lines(figure)


def ticks(low: float, high: float, most: int = 5, *, whole: bool = False) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``most`` of them; at least one."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    raw = span / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= raw * 0.999)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def number(value: float) -> str:
    """A number of an axis or of a table of data, short."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 100 else f"{value:,.6g}"


@dataclass(frozen=True, slots=True)
class _Axes:
    """Where values lie in the figure."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float
    height: float

    def at_x(self, value: float) -> float:
        low, high = self.x
        return self.left + (value - low) / ((high - low) or 1) * (WIDTH - _RIGHT - self.left)

    def at_y(self, value: float) -> float:
        low, high = self.y
        bottom = self.height - _BOTTOM
        return bottom - (value - low) / ((high - low) or 1) * (bottom - _TOP)


def _svg(figure: Figure, height: float, parts: Sequence[str]) -> str:
    title, told = f"{figure.key}-title", f"{figure.key}-desc"
    return "".join(
        (
            f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" '
            f'aria-labelledby="{title} {told}">',
            f'<title id="{title}">{safe(figure.title)}</title>',
            f'<desc id="{told}">{safe(figure.description)}</desc>',
            *parts,
            "</svg>",
        )
    )


def _text(x: float, y: float, text: str, *, kind: str = "tick", anchor: str = "middle") -> str:
    return (
        f'<text class="{kind}" x="{_unit(x)}" y="{_unit(y)}" text-anchor="{anchor}">{safe(text)}'
        "</text>"
    )


def _unit(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _bars(figure: Bars) -> str:
    most = figure.limit or max((*figure.values, *(high for _, high in figure.intervals)), default=0)
    names, texts = list(map(_cut, figure.names)), list(map(_cut, figure.shown))
    left = _WIDE * max(map(len, names), default=0) + 12
    room = WIDTH - left - _WIDE * max(map(len, texts), default=0) - 8
    parts = []
    for k, (name, value, shown) in enumerate(zip(names, figure.values, texts, strict=True)):
        top = k * _BAR + 4
        middle = top + (_BAR - 8) / 2
        length = room * value / (most or 1)
        parts += [
            _text(left - 10, middle + 4.5, name, kind="name", anchor="end"),
            f'<rect class="track" x="{_unit(left)}" y="{top}" width="{_unit(room)}" '
            f'height="{_BAR - 8}" rx="3"/>',
            f'<rect class="k0" x="{_unit(left)}" y="{top}" width="{_unit(length)}" '
            f'height="{_BAR - 8}" rx="3"/>',
            _text(WIDTH, middle + 4.5, shown, kind="value", anchor="end"),
        ]
        if figure.intervals:
            low, high = (left + room * end / (most or 1) for end in figure.intervals[k])
            parts.append(
                f'<path class="whisker" d="M{_unit(low)} {middle:g}H{_unit(high)}'
                f'M{_unit(low)} {middle - 4:g}v8M{_unit(high)} {middle - 4:g}v8"/>'
            )
    return _svg(figure, max(1, len(figure.names)) * _BAR + 4, parts)


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_CHARACTERS else name[: _NAME_CHARACTERS - 1] + "…"


def _frame(axes: _Axes, figure: Columns | Lines, *, whole: bool = False) -> list[str]:
    """Grid, ticks and the names of the axes; ``whole`` where y counts something."""
    parts = []
    for y in ticks(*axes.y, 4, whole=whole):
        at = axes.at_y(y)
        parts.append(
            f'<path class="grid" d="M{_unit(axes.left)} {_unit(at)}H{WIDTH - _RIGHT}"/>'
            + _text(axes.left - 7, at + 4, number(y), anchor="end")
        )
    bottom = axes.height - _BOTTOM
    parts.append(f'<path class="axis" d="M{_unit(axes.left)} {bottom:g}H{WIDTH - _RIGHT}"/>')
    parts += [_text(axes.at_x(x), bottom + 17, number(x)) for x in ticks(*axes.x)]
    parts.append(_text(WIDTH - _RIGHT, axes.height - 6, figure.x_label, kind="label", anchor="end"))
    parts.append(_text(0, 12, figure.y_label, kind="label", anchor="start"))
    return parts


def _axes(x: tuple[float, float], y: tuple[float, float]) -> _Axes:
    widest = max(len(number(tick)) for tick in ticks(*y, 4))
    return _Axes(x, y, 12 + _CHARACTER * widest, _HEIGHT)


def _columns(figure: Columns) -> str:
    totals = [sum(counts) for counts in zip(*(c for _, c in figure.series), strict=True)]
    axes = _axes((figure.edges[0], figure.edges[-1]), (0.0, max(*totals, 1.0) * 1.04))
    parts = _frame(axes, figure, whole=True)
    below = [0.0] * len(totals)
    for s, (_, counts) in enumerate(figure.series):
        for k, count in enumerate(counts):
            if count:
                left, right = axes.at_x(figure.edges[k]), axes.at_x(figure.edges[k + 1])
                top, bottom = axes.at_y(below[k] + count), axes.at_y(below[k])
                gap = min(1.0, (right - left) / 8)
                parts.append(
                    f'<rect class="k{s}" x="{_unit(left + gap)}" y="{_unit(top)}" '
                    f'width="{_unit(right - left - 2 * gap)}" height="{_unit(bottom - top)}"/>'
                )
            below[k] += count
    return _svg(figure, _HEIGHT, parts)


def _lines(figure: Lines) -> str:
    points = [point for series in figure.series for point in series.points]
    axes = _axes(
        figure.x_range or _span([x for x, _ in points]),
        figure.y_range or _span([y for _, y in points], margin=0.05),
    )
    parts = _frame(axes, figure)
    if figure.reference is not None:
        low, high = max(axes.x[0], axes.y[0]), min(axes.x[1], axes.y[1])
        parts.append(
            f'<path class="reference" d="M{_unit(axes.at_x(low))} {_unit(axes.at_y(low))}'
            f'L{_unit(axes.at_x(high))} {_unit(axes.at_y(high))}"/>'
        )
    for s, series in enumerate(figure.series):
        places = [(axes.at_x(x), axes.at_y(y)) for x, y in thinned(series.points, _MOST_POINTS)]
        if len(places) > 1 and series.joined:
            path = "L".join(f"{_unit(x)} {_unit(y)}" for x, y in places)
            parts.append(f'<path class="line l{s}" d="M{path}"/>')
        if series.markers or len(places) == 1:
            parts += [
                f'<circle class="c{s}" cx="{_unit(x)}" cy="{_unit(y)}" r="3.5"/>' for x, y in places
            ]
    return _svg(figure, _HEIGHT, parts)


def _span(values: Sequence[float], margin: float = 0.0) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        around = abs(low) / 2 or 0.5
        return low - around, high + around
    return low - margin * (high - low), high + margin * (high - low)


def thinned(points: Sequence[tuple[float, float]], most: int) -> Sequence[tuple[float, float]]:
    """At most about ``most`` points, among them the ends and the extremes of each stretch."""
    if len(points) <= most:
        return points
    size = math.ceil(2 * len(points) / most)
    kept = {0, len(points) - 1}
    for start in range(0, len(points), size):
        block = range(start, min(start + size, len(points)))
        kept.add(min(block, key=lambda k: points[k][1]))
        kept.add(max(block, key=lambda k: points[k][1]))
    return [points[k] for k in sorted(kept)]
