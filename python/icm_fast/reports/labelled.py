"""What searches and labellings share in a report: labels, rows, confidence, gold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from icm_fast.evaluation.reliability import Reliability, reliability
from icm_fast.reports.content import (
    Bars,
    Block,
    Columns,
    Facts,
    Folded,
    Lines,
    Paragraph,
    Rows,
    Section,
    Series,
    Table,
    Tile,
    share,
)
from icm_fast.types import UNLABELLED, FloatArray, IntArray

DEFAULT_ROWS = 20_000
"""Rows in a page: browsers open what these take, some megabytes, without a wait."""

_FEWEST_ROWS = 5
"""Rows from which on the curve of coverage begins, and a hundredth of all where that is more."""

KNOWN = "known"
"""How a label came about that was known before."""

_LONGEST_TEXT = 4000
"""Characters of a text in a page."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Rows with what was found.

    Attributes:
        labels: Names of the labels.
        id_of: How a row is named in its data, by its position.
        text_of: Its text, asked for only of rows that :func:`chosen_rows` names.
        found: ``[n]``, -1 where there is no label.
        confidence: ``[n]`` probability of the label, or of the most probable one without a label.
        decided: ``[n]`` index into ``deciders``.
        deciders: How a label can come about.
        more: Further values, by name: the value of a row by its position.
        what_confidence: What confidence is, in one sentence.
        gold: ``[n]``, -1 where unknown; None where it was not asked for.
        decided_by: Headline of what ``deciders`` are.
    """

    labels: tuple[str, ...]
    id_of: Callable[[int], str]
    text_of: Callable[[int], str]
    found: IntArray
    confidence: FloatArray
    decided: IntArray
    deciders: tuple[str, ...]
    more: tuple[tuple[str, Callable[[int], str]], ...]
    what_confidence: str
    gold: IntArray | None = None
    decided_by: str = "Decided by"

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.found)


def cut_text(text: str) -> str:
    """A text as a page holds it: the whole of it unless it is very long."""
    if len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[:_LONGEST_TEXT]}… ({len(text) - _LONGEST_TEXT:,} more characters)"


def main_tiles(rows: Labelled) -> tuple[Tile, Tile]:
    """Tiles on how many rows have a label, and on how sure the labels are."""
    given = rows.found != UNLABELLED
    n = int(given.sum())
    counts = [
        (rows.deciders[k], int((rows.decided[given] == k).sum())) for k in range(len(rows.deciders))
    ]
    how = ", ".join(f"{count:,} by {name}" for name, count in counts if count)
    mean = f"{rows.confidence[given].mean():.2f}" if n else "–"
    low = f"one in ten below {np.percentile(rows.confidence[given], 10):.2f}" if n else ""
    return (
        Tile("rows labelled", f"{n:,} of {rows.n:,}" if n < rows.n else f"{n:,}", how),
        Tile("mean confidence", mean, low),
    )


def labels_section(rows: Labelled, shares: Sequence[Block] = ()) -> Section:
    """How many rows have each label, and how sure the labels are."""
    counts = [int((rows.found == k).sum()) for k in range(len(rows.labels))]
    names = [name.strip() for name in rows.labels]
    missing = int((rows.found == UNLABELLED).sum())
    if missing:
        counts, names = [*counts, missing], [*names, "(no label)"]
    shown = tuple(f"{count:,} · {share(count, rows.n)}" for count in counts)
    told = ", ".join(f"{name} {text}" for name, text in zip(names[:10], shown, strict=False))
    bars = Bars(
        "labels",
        "Rows of each label",
        f"Number of rows and share of each label: {told}.",
        tuple(names),
        tuple(map(float, counts)),
        shown,
        "rows",
        limit=float(rows.n),
    )
    return Section("labels", "Labels", (*shares, bars, _confidence_figure(rows)))


def _confidence_figure(rows: Labelled) -> Columns:
    sure = rows.confidence[rows.found != UNLABELLED]
    step = 0.05
    lowest = math.floor(float(sure.min(initial=1.0)) / step + 1e-9) * step
    n_bins = max(1, round((1.0 - lowest) / step))
    edges = tuple(round(1.0 - step * (n_bins - k), 10) for k in range(n_bins + 1))
    place = np.clip(((sure - edges[0]) / step + 1e-9).astype(np.int64), 0, n_bins - 1)
    counts = np.bincount(place, minlength=n_bins)
    sure_rows = int(counts[edges.index(0.9) :].sum()) if 0.9 in edges else int(counts.sum())
    return Columns(
        "confidence",
        "Confidence of the labels",
        f"Histogram of confidence. {sure_rows:,} of {len(sure):,} labels have a confidence of 0.9 "
        "or more.",
        "confidence",
        "rows",
        edges,
        (("rows", tuple(map(float, counts))),),
    )


def chosen_rows(confidence: FloatArray, limit: int) -> npt.NDArray[np.intp]:
    """Positions of the rows of a page, rising: all, or as many of both ends of the confidence."""
    n = len(confidence)
    if n <= limit:
        return np.arange(n)
    order = np.argsort(confidence, kind="stable")
    return np.sort(np.concatenate((order[: limit // 2], order[n - (limit + 1) // 2 :])))


def rows_section(rows: Labelled, limit: int = DEFAULT_ROWS) -> Section:
    """The table of rows; beyond ``limit`` the least and the most certain ones alone."""
    order = chosen_rows(rows.confidence, limit)
    kept: list[int] = order.tolist()
    block = Rows(
        labels=tuple(name.strip() for name in rows.labels),
        ids=[rows.id_of(k) for k in kept],
        texts=[cut_text(rows.text_of(k)) for k in kept],
        found=rows.found[order].tolist(),
        confidence=[round(float(p), 4) for p in rows.confidence[order]],
        decided=rows.decided[order].tolist(),
        deciders=rows.deciders,
        more=tuple((name, [value(k) for k in kept]) for name, value in rows.more),
        n_total=rows.n,
        what_confidence=rows.what_confidence,
        gold=None if rows.gold is None else rows.gold[order].tolist(),
        decided_by=rows.decided_by,
    )
    blocks: list[Block] = [block]
    if rows.n > len(kept):
        more = (
            f"The page holds the {limit // 2:,} least certain and the {(limit + 1) // 2:,} most "
            f"certain of {rows.n:,} rows; --rows changes that."
        )
        blocks.insert(0, Paragraph(more))
    return Section("rows", "Rows", tuple(blocks))


_APART = (
    "This part needs gold labels. They were read after the labels were final; no label, confidence "
    "or concern depends on them."
)


def gold_section(rows: Labelled, more: Sequence[Block] = ()) -> Section | None:
    """Accuracy, calibration and coverage; None where no gold is known.

    Args:
        rows: The rows.
        more: What else is known from gold.
    """
    found = None
    if rows.gold is not None:
        gold = _judged(rows, rows.gold)
        rows = replace(rows, gold=gold)
        found = reliability(rows.found, rows.confidence, gold)
    if found is None and not more:
        return None
    blocks: list[Block] = [Paragraph(_APART)]
    if found is not None:
        blocks += _reliability_blocks(found, rows)
    return Section("gold", "Compared with gold", (*blocks, *more))


def _judged(rows: Labelled, gold: IntArray) -> IntArray:
    """Gold of the rows whose labels were found: known labels tell nothing about a search."""
    known = [k for k, name in enumerate(rows.deciders) if name == KNOWN]
    return np.where(np.isin(rows.decided, known), UNLABELLED, gold).astype(np.int32)


def _reliability_blocks(found: Reliability, rows: Labelled) -> list[Block]:
    assert rows.gold is not None
    curve = _from_few(found)
    best = [
        f"{accuracy:.2f} on the most certain {part} %"
        for part in (25, 50, 75)
        if (accuracy := _accuracy_at(curve, part / 100)) is not None
    ]
    facts = Facts(
        (
            ("Rows with a found label and gold", f"{found.n:,} of {rows.n:,}"),
            ("Labels that agree with gold", f"{found.accuracy:.3f}"),
            ("Mean confidence of the same rows", f"{found.confidence:.3f}"),
            ("Mean distance of confidence and accuracy", f"{found.error:.3f}"),
        )
    )
    calibration = Lines(
        "calibration",
        "Calibration",
        "Accuracy of the labels against their confidence, in intervals of a tenth; on the diagonal "
        f"the two agree. The mean distance is {found.error:.3f}.",
        "confidence",
        "accuracy",
        (Series("labels", tuple((b.confidence, b.accuracy) for b in found.bins), markers=True),),
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        reference="confidence = accuracy",
    )
    coverage = Lines(
        "coverage",
        "Accuracy of the most certain rows",
        f"Accuracy against the share of rows that are kept, most certain first: {', '.join(best)}, "
        f"{found.accuracy:.2f} on all.",
        "share of the rows, most certain first",
        "accuracy",
        (Series("labels", curve),),
        x_range=(0.0, 1.0),
        y_range=(max(0.0, math.floor(min(a for _, a in curve) * 10) / 10 - 0.05), 1.0),
    )
    return [facts, calibration, coverage, _confusion(rows), _calibration_table(found)]


def _calibration_table(found: Reliability) -> Folded:
    lines = tuple(
        (
            f"{b.low:.1f} to {b.high:.1f}",
            f"{b.n:,}",
            f"{b.confidence:.3f}",
            f"{b.accuracy:.3f}",
        )
        for b in found.bins
    )
    table = Table(
        "Rows by confidence",
        ("confidence", "rows", "mean confidence", "accuracy"),
        lines,
        frozenset((1, 2, 3)),
    )
    return Folded("Calibration in numbers", (table,))


def _from_few(found: Reliability) -> tuple[tuple[float, float], ...]:
    """The curve without its beginning, where one row more or less is all there is to see."""
    fewest = max(_FEWEST_ROWS, found.n / 100)
    kept = tuple(point for point in found.coverage if point[0] * found.n >= fewest - 1e-9)
    return kept or found.coverage[-1:]


def _accuracy_at(curve: Sequence[tuple[float, float]], part: float) -> float | None:
    inside = [accuracy for covered, accuracy in curve if covered <= part + 1e-9]
    return inside[-1] if inside else None


def _confusion(rows: Labelled) -> Table:
    assert rows.gold is not None
    names = [name.strip() for name in rows.labels]
    both = (rows.found != UNLABELLED) & (rows.gold != UNLABELLED)
    lines = []
    for g, name in enumerate(names):
        found = rows.found[both & (rows.gold == g)]
        counts = np.bincount(found, minlength=len(names)).tolist()
        right = share(counts[g], sum(counts))
        lines.append((name, *(f"{count:,}" for count in counts), right))
    return Table(
        "Rows by gold label (down) and found label (across)",
        ("gold", *(f"found {name}" for name in names), "found right"),
        tuple(lines),
        frozenset(range(1, len(names) + 2)),
    )
