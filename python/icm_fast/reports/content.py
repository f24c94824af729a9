"""What a report says, apart from how it looks: sections, tables and figures as plain values.

Texts are those of users and models as they are; whoever writes a page or a picture makes them
harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from icm_fast.runs.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A sentence or two."""

    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Names with their values."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A small table.

    Attributes:
        caption: What it shows.
        columns: Names of the columns.
        rows: Cells as texts; the first one of a row is its name.
        numeric: Positions of columns that hold numbers.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Bars:
    """A figure of horizontal bars, one for each name.

    Attributes:
        key: Name of its files, and of its place in a page.
        title: What it shows.
        description: The same for people who cannot see it, with its main numbers.
        names: One for each bar.
        values: Their lengths, at least 0.
        shown: The same as texts.
        measure: What the values are.
        intervals: A lower and an upper bound for each bar, where there are any.
        limit: The value of the whole width; the largest one when absent.
    """

    key: str
    title: str
    description: str
    names: tuple[str, ...]
    values: tuple[float, ...]
    shown: tuple[str, ...]
    measure: str
    intervals: tuple[tuple[float, float], ...] = ()
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """A figure of counts in intervals, stacked.

    Attributes:
        key: Name of its files, and of its place in a page.
        title: What it shows.
        description: The same for people who cannot see it.
        x_label: What the intervals are of.
        y_label: What is counted.
        edges: Bounds of the intervals, one more than there are intervals.
        series: Names with their counts, from the bottom up.
    """

    key: str
    title: str
    description: str
    x_label: str
    y_label: str
    edges: tuple[float, ...]
    series: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True, slots=True)
class Series:
    """A line.

    Attributes:
        name: What it is.
        points: ``(x, y)``, by rising x.
        markers: Whether each point gets a mark.
        joined: Whether a line joins the points.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    markers: bool = False
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Lines:
    """A figure of lines.

    Attributes:
        key: Name of its files, and of its place in a page.
        title: What it shows.
        description: The same for people who cannot see it.
        x_label: What x is.
        y_label: What y is.
        series: The lines, at most six.
        x_range: Where the axis begins and ends; what the points need when absent.
        y_range: The same for y.
        reference: Name of the line y = x, drawn where it is given.
    """

    key: str
    title: str
    description: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    reference: str | None = None


Figure: TypeAlias = Bars | Columns | Lines


@dataclass(frozen=True, slots=True)
class Rows:
    """The labelled rows, for a table that can be sorted, searched and filtered.

    All sequences have one entry for each row.

    Attributes:
        labels: Names of the labels.
        ids: How each row is named in its data.
        texts: What the model read, without the words that ask for the label.
        found: Index of each label, -1 where there is none.
        confidence: Probability of the label, or of the most probable one where there is none.
        decided: Index into ``deciders``.
        deciders: How a label can come about.
        more: Further values of each row, by name; shown with its whole text.
        gold: Index of each gold label, -1 where unknown; absent where gold was not asked for.
        decided_by: Headline of what ``deciders`` are.
        n_total: Rows that there are; more than here where the page would be too large.
        what_confidence: What confidence is, in one sentence.
    """

    labels: tuple[str, ...]
    ids: Sequence[str]
    texts: Sequence[str]
    found: Sequence[int]
    confidence: Sequence[float]
    decided: Sequence[int]
    deciders: tuple[str, ...]
    more: tuple[tuple[str, Sequence[str]], ...]
    n_total: int
    what_confidence: str
    gold: Sequence[int] | None = None
    decided_by: str = "Decided by"


@dataclass(frozen=True, slots=True)
class Folded:
    """Blocks that are shown when they are opened."""

    title: str
    blocks: tuple[Paragraph | Facts | Table, ...]


Block: TypeAlias = Paragraph | Facts | Table | Figure | Rows | Folded


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report.

    Attributes:
        key: Its place in a page.
        title: Its headline.
        blocks: What is in it; figures that follow each other stand side by side.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """A number that matters, with a few words on it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Concern:
    """A reason for doubt: its kind, and what was found and how to fix it."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report.

    Attributes:
        kind: What it is of: ``search``, ``labelling``, ``training`` or ``comparison``.
        title: Headline.
        lead: One sentence on what was done.
        tiles: The numbers that matter most.
        concerns: Reasons for doubt, gravest first; None where nothing looks for any.
        no_concerns: What to say where there are none.
        verdict: Whether the labels can be trusted; None where nothing says so.
        sections: Everything else, in the order in which it is read.
    """

    kind: str
    title: str
    lead: str
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    concerns: tuple[Concern, ...] | None = None
    no_concerns: str = ""
    verdict: Verdict | None = None
    figures: tuple[Figure, ...] = field(init=False)

    def __post_init__(self) -> None:
        figures = [
            block
            for section in self.sections
            for block in section.blocks
            if isinstance(block, Bars | Columns | Lines)
        ]
        object.__setattr__(self, "figures", tuple(figures))


def share(part: float, whole: float) -> str:
    """A share in percent, for people; a dash of nothing."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 1 or part == 0 else "< 1 %"
