"""A report as one HTML file that loads nothing.

All texts are escaped here; those of the table of rows travel as JSON, which the page's script puts
into it as text. A content security policy allows the page's own style and script, by their
hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from itertools import groupby
from string import Template

from icm_fast.reports.charts import figure_svg, number, safe, thinned, visible
from icm_fast.reports.content import (
    Bars,
    Block,
    Columns,
    Facts,
    Figure,
    Folded,
    Lines,
    Paragraph,
    Report,
    Rows,
    Section,
    Table,
    Tile,
)
from icm_fast.runs.verdict import Verdict

_KINDS = {
    "second-opinion": "Another start finds other labels",
    "one-sided": "One-sided labels",
    "no-signal": "No signal",
    "rival": "Another labelling is nearly as good",
    "violations": "Violated constraints",
    "unlabelled": "Rows without a label",
    "duplicates": "Equal texts",
}
"""What the kinds of concerns are called."""

_MOST_DATA = 60
"""Points of a line in its table of data."""


def render_page(report: Report, source: str) -> str:
    """The report as HTML.

    Args:
        report: What it says.
        source: What its files are called in the last line.
    """
    style, script = part("page.css"), part("page.js")
    sections = list(_sections(report))
    rows = _rows_of(report)
    return Template(part("page.html")).substitute(
        policy=policy(style, script),
        title=safe(report.title),
        kind=safe(report.kind),
        lead=safe(report.lead),
        contents="".join(
            f'<li><a href="#{key}">{safe(title)}</a></li>' for key, title, _ in sections
        ),
        main="".join(html for _, _, html in sections),
        footer=safe(source),
        style=style,
        script=script,
        data=data_text({"rows": None if rows is None else _rows_data(rows)}),
    )


def policy(style: str, script: str) -> str:
    """The content security policy of a page with this style and script."""
    return (
        f"default-src 'none'; style-src '{content_hash(style)}'; "
        f"script-src '{content_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def data_text(content: object) -> str:
    """JSON that can stand inside a ``script`` element whatever its texts hold."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


@cache
def part(name: str) -> str:
    """The text of a file of this package."""
    return files("icm_fast.reports").joinpath(name).read_text(encoding="utf-8")


def content_hash(text: str) -> str:
    """How a policy names a style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _rows_of(report: Report) -> Rows | None:
    return next((b for s in report.sections for b in s.blocks if isinstance(b, Rows)), None)


def _rows_data(rows: Rows) -> dict[str, object]:
    """The table of rows as the script reads it; signs that cannot be seen are shown as escapes."""
    return {
        "labels": list(map(visible, rows.labels)),
        "deciders": list(map(visible, rows.deciders)),
        "decidedBy": visible(rows.decided_by),
        "ids": list(map(visible, rows.ids)),
        "texts": list(map(visible, rows.texts)),
        "found": list(rows.found),
        "confidence": list(rows.confidence),
        "decided": list(rows.decided),
        "gold": None if rows.gold is None else list(rows.gold),
        "more": [[visible(name), list(map(visible, values))] for name, values in rows.more],
    }


def _sections(report: Report) -> Iterator[tuple[str, str, str]]:
    """Key, title and HTML of each part."""
    if report.verdict is not None:
        yield "verdict", "Verdict", _verdict(report.verdict)
    yield "summary", "Summary", _section("summary", "Summary", _tiles(report.tiles), hidden=True)
    if report.concerns is not None:
        yield "concerns", "Concerns", _concerns(report)
    for section in report.sections:
        html = _section(section.key, section.title, _blocks(section))
        yield section.key, section.title, html


def _section(key: str, title: str, html: str, kind: str = "", *, hidden: bool = False) -> str:
    headline = '<h2 class="hidden"' if hidden else "<h2"
    return (
        f'<section id="{key}"{kind} aria-labelledby="{key}-head">'
        f'{headline} id="{key}-head">{safe(title)}</h2>{html}</section>'
    )


def _tiles(tiles: Iterable[Tile]) -> str:
    inner = "".join(
        f'<div><dt>{safe(tile.name)}</dt><dd class="value">{safe(tile.value)}</dd>'
        + (f'<dd class="note">{safe(tile.note)}</dd>' if tile.note else "")
        + "</div>"
        for tile in tiles
    )
    return f'<dl class="tiles">{inner}</dl>'


def _verdict(verdict: Verdict) -> str:
    """The word first, then why, then what to do."""
    reasons = "".join(f"<li>{safe(reason)}</li>" for reason in verdict.reasons)
    html = f'<p class="text"><strong>{safe(verdict.headline)}</strong></p><ul>{reasons}</ul>'
    if verdict.advice:
        html += f'<p class="text">{safe(verdict.advice)}</p>'
    return _section("verdict", "Verdict", html, f' class="verdict {safe(verdict.level)}"')


def _concerns(report: Report) -> str:
    concerns = report.concerns or ()
    if not concerns:
        html = f'<p class="text">{safe(report.no_concerns)}</p>'
        return _section("concerns", "Concerns", html, ' class="concerns"')
    items = "".join(
        f"<li><strong>{safe(_KINDS.get(c.kind, c.kind))}</strong>{safe(c.text)}</li>"
        for c in concerns
    )
    return _section("concerns", "Concerns", f"<ul>{items}</ul>", ' class="concerns some"')


def _blocks(section: Section) -> str:
    parts = []
    for pictured, blocks in groupby(
        section.blocks, lambda b: isinstance(b, Bars | Columns | Lines)
    ):
        inner = "".join(map(_block, blocks))
        parts.append(f'<div class="figures">{inner}</div>' if pictured else inner)
    return "".join(parts)


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return f'<p class="text">{safe(block.text)}</p>'
    if isinstance(block, Facts):
        return _facts(block)
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Rows):
        return _rows(block)
    if isinstance(block, Folded):
        inner = "".join(map(_block, block.blocks))
        return f'<details class="fold"><summary>{safe(block.title)}</summary>{inner}</details>'
    return _figure(block)


def _facts(block: Facts) -> str:
    inner = "".join(
        f'<dt>{safe(name)}</dt><dd dir="auto">{safe(value)}</dd>' for name, value in block.items
    )
    return f'<dl class="facts">{inner}</dl>'


def _table(table: Table, *, caption_hidden: bool = False) -> str:
    def classes(k: int) -> str:
        return ' class="n"' if k in table.numeric else ""

    head = "".join(
        f'<th scope="col"{classes(k)}>{safe(name)}</th>' for k, name in enumerate(table.columns)
    )
    body = "".join(
        f'<tr><th scope="row" dir="auto">{safe(row[0])}</th>'
        + "".join(f"<td{classes(k)}>{safe(cell)}</td>" for k, cell in enumerate(row[1:], start=1))
        + "</tr>"
        for row in table.rows
    )
    kind = ' class="hidden"' if caption_hidden else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{safe(table.caption)}">'
        f'<table class="small"><caption{kind}>{safe(table.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _figure(figure: Figure) -> str:
    return (
        f'<figure class="figure" id="figure-{figure.key}"><figcaption>'
        f"<h3>{safe(figure.title)}</h3>{_legend(figure)}</figcaption>{figure_svg(figure)}"
        f'<details><summary>Data<span class="hidden"> of {safe(figure.title)}</span></summary>'
        f"{_table(figure_data(figure), caption_hidden=True)}</details></figure>"
    )


def _legend(figure: Figure) -> str:
    """The names of the series, where there is more than one, or a line of reference."""
    if isinstance(figure, Columns) and len(figure.series) > 1:
        marks = [
            (f'<rect class="k{s}" width="18" height="11" rx="2"/>', name)
            for s, (name, _) in enumerate(figure.series)
        ]
    elif isinstance(figure, Lines) and (len(figure.series) > 1 or figure.reference):
        marks = [
            (
                f'<circle class="c{s}" cx="9" cy="6" r="4"/>'
                if len(series.points) < 2 or not series.joined
                else f'<path class="line l{s}" d="M0 6H18"/>',
                series.name,
            )
            for s, series in enumerate(figure.series)
        ]
        if figure.reference:
            marks.append(('<path class="reference" d="M0 6H18"/>', figure.reference))
    else:
        return ""
    items = "".join(
        f'<li><svg viewBox="0 0 18 12" aria-hidden="true">{mark}</svg>{safe(name)}</li>'
        for mark, name in marks
    )
    return f'<ul class="legend">{items}</ul>'


def figure_data(figure: Figure) -> Table:
    """The numbers of a figure as a table."""
    caption = f"Data of: {figure.title}"
    if isinstance(figure, Bars):
        rows = tuple(zip(figure.names, figure.shown, strict=True))
        return Table(caption, ("name", figure.measure), rows, frozenset((1,)))
    if isinstance(figure, Columns):
        names = (figure.x_label, *(name for name, _ in figure.series))
        counts = list(zip(*(c for _, c in figure.series), strict=True))
        cells = tuple(
            (
                f"{number(figure.edges[k])} to {number(figure.edges[k + 1])}",
                *(number(count) for count in row),
            )
            for k, row in enumerate(counts)
        )
        return Table(caption, names, cells, frozenset(range(1, len(names))))
    points = tuple(
        (series.name, number(x), number(y))
        for series in figure.series
        for x, y in thinned(series.points, _MOST_DATA)
    )
    columns = ("line", figure.x_label, figure.y_label)
    return Table(caption, columns, points, frozenset((1, 2)))


def _rows(rows: Rows) -> str:
    """The frame of the table of rows, which the script fills."""
    heads = [
        ("row", "Row", "id"),
        ("text", "Text", ""),
        ("found", "Label", ""),
        ("confidence", "Confidence", "number"),
        ("decided", safe(rows.decided_by), "how"),
    ]
    widths = ["w-id", "", "w-label", "w-sure", "w-how"]
    if rows.gold is not None:
        heads.append(("gold", "Gold", "gold"))
        widths.append("w-gold")
    columns = "".join(f'<col class="{width}">' if width else "<col>" for width in widths)
    head = "".join(
        f'<th scope="col" class="{kind}"><button type="button" data-key="{key}">{name}</button>'
        "</th>"
        for key, name, kind in heads
    )
    return (
        '<noscript><p class="text">The table of rows needs JavaScript.</p></noscript>'
        f"{_controls(rows)}"
        '<p class="status" id="rows-status" role="status" aria-live="polite"></p>'
        '<div class="scroller" id="rows-scroll" tabindex="0" role="region" '
        'aria-label="Rows, which can be scrolled">'
        '<table class="rows"><caption class="hidden">Rows with their labels; the headlines of the '
        f"columns sort them</caption><colgroup>{columns}</colgroup><thead><tr>{head}</tr></thead>"
        "<tbody></tbody></table></div>"
        f'<p class="below">{safe(rows.what_confidence)}</p>{_DETAIL}'
    )


def _controls(rows: Rows) -> str:
    def choice(name: str, title: str, options: Iterable[tuple[str, str]]) -> str:
        inner = "".join(
            f'<option value="{safe(value)}">{safe(text)}</option>' for value, text in options
        )
        inner = f'<option value="">all</option>{inner}'
        return f'<label>{title}<select name="{name}">{inner}</select></label>'

    used, ways = set(rows.found), set(rows.decided)
    labels = [(str(k), name) for k, name in enumerate(rows.labels)]
    labels += [("-1", "(no label)")] if -1 in used else []
    deciders = [(str(k), name) for k, name in enumerate(rows.deciders) if k in ways]
    gold = (("same", "label agrees"), ("other", "label differs"), ("unknown", "unknown"))
    return (
        '<form class="controls" id="rows-controls" role="search" aria-label="Choose rows">'
        '<label class="grow">Search texts<input name="search" type="search" autocomplete="off" '
        'spellcheck="false"></label>'
        + choice("label", "Label", labels)
        + choice("decided", safe(rows.decided_by), deciders)
        + (choice("gold", "Gold", gold) if rows.gold is not None else "")
        + '<span class="pair" role="group" aria-labelledby="rows-sure"><span id="rows-sure">'
        'Confidence</span><span><input name="low" type="number" min="0" max="1" step="0.05" '
        'placeholder="0" aria-label="Lowest confidence">to<input name="high" type="number" '
        'min="0" max="1" step="0.05" placeholder="1" aria-label="Highest confidence"></span></span>'
        '<button class="plain" type="reset">Reset</button></form>'
    )


_DETAIL = (
    '<dialog id="rows-detail" aria-labelledby="rows-detail-head"><div class="inside">'
    '<div class="bar"><h3 id="rows-detail-head"></h3><div class="steps">'
    '<button class="plain" type="button" data-do="back">Previous</button>'
    '<button class="plain" type="button" data-do="next">Next</button>'
    '<button class="plain" type="button" data-do="close">Close</button></div></div>'
    '<p class="whole" dir="auto"></p><dl class="facts"></dl></div></dialog>'
)
