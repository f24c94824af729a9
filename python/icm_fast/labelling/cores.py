"""Cores: the rows that are searched, and what of them becomes demonstrations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from icm_fast.tasks.duplicates import same_text
from icm_fast.tasks.sampling import digest
from icm_fast.types import UNLABELLED, BoolArray, FloatArray, IntArray

RESERVE = 2
"""Candidates that are looked at for each row that a core needs, since equal texts are left out."""


@dataclass(frozen=True, slots=True)
class Core:
    """Rows that are searched together.

    Attributes:
        rows: Positions in the table, ``[n]`` int32, in the order of the search.
        known: Their known labels, ``[n]`` int32, -1 where there is none.
    """

    rows: IntArray
    known: IntArray


def candidates(
    predicted: IntArray,
    margins: FloatArray,
    known: IntArray,
    n_labels: int,
    *,
    share: float,
    needed: int,
    seed: int,
) -> list[list[int]]:
    """Rows of which cores may be made, for each label in the order in which they are drawn.

    Args:
        predicted: Label of each row without demonstrations, ``[n]``.
        margins: How sure that is, ``[n]``.
        known: Known labels, ``[n]``, -1 where there is none; such rows are not drawn.
        n_labels: Number of labels.
        share: Share of the rows of each label, the surest ones, from which is drawn.
        needed: Rows that are needed for each label.
        seed: Seed of the draw, which does not depend on the order of ``margins``.
    """
    lists = []
    for label in range(n_labels):
        rows = np.flatnonzero((predicted == label) & (known == UNLABELLED))
        surest = rows[np.argsort(-margins[rows], kind="stable")]
        kept = surest[: max(RESERVE * needed, round(share * len(rows)))]
        lists.append(sorted(kept.tolist(), key=lambda row: digest("core", seed, row)))
    return lists


def make_cores(
    drawn: Sequence[Sequence[int]],
    texts: dict[int, str],
    known: IntArray,
    *,
    n_cores: int,
    size: int,
    seed: int,
) -> list[Core]:
    """Cores without equal texts, with as many rows of each label as there are.

    Known rows come first, up to half of each core, as many of each label as there are: with few of
    them, the later cores have none and stay the same when more become known.

    Args:
        drawn: Candidates of each label; see :func:`candidates`.
        texts: Prompts of the candidates and of the known rows, by row.
        known: Known labels of all rows, -1 where there is none.
        n_cores: Number of cores.
        size: Rows in each.
        seed: Seed of the order inside a core.
    """
    n_labels = len(drawn)
    seen: set[str] = set()
    fresh = [iter(_without_equal(rows, texts, seen)) for rows in drawn]
    given = [
        iter(_without_equal(_known_rows(known, label, seed, texts), texts, seen))
        for label in range(n_labels)
    ]
    cores = []
    for k in range(n_cores):
        fixed = _dealt(given, size // 2)
        rows = fixed + _dealt(fresh, size - len(fixed))
        rows.sort(key=lambda row: digest("order", seed, k, row))
        picked = np.array(rows, np.int32)
        cores.append(Core(picked, np.asarray(known[picked], np.int32)))
    return cores


def _known_rows(known: IntArray, label: int, seed: int, texts: dict[int, str]) -> list[int]:
    rows = [row for row in np.flatnonzero(known == label).tolist() if row in texts]
    return sorted(rows, key=lambda row: digest("known", seed, row))


def _without_equal(rows: Iterable[int], texts: dict[int, str], seen: set[str]) -> Iterable[int]:
    for row in rows:
        text = same_text(texts[row])
        if text not in seen:
            seen.add(text)
            yield row


def _dealt(lists: Sequence[Iterable[int]], n: int) -> list[int]:
    """Up to ``n`` rows, one of each list in turn until all are empty."""
    open_lists = [iter(rows) for rows in lists]
    rows: list[int] = []
    while open_lists and len(rows) < n:
        remaining = []
        for source in open_lists:
            row = next(source, None) if len(rows) < n else None
            if row is not None:
                rows.append(row)
                remaining.append(source)
            elif len(rows) >= n:
                remaining.append(source)
        open_lists = remaining
    return rows


def kept_demonstrations(
    labels: IntArray, confidence: FloatArray, known: IntArray, n_labels: int, share: float
) -> BoolArray:
    """Which rows of a core become demonstrations: the surest, as many of each label, ``[n]`` bool.

    Known rows always do. A label that has few rows keeps them all.

    Args:
        labels: What the search found, ``[n]``.
        confidence: How sure that is, ``[n]``.
        known: Known labels, ``[n]``, -1 where there is none.
        n_labels: Number of labels.
        share: Share of the core to keep.
    """
    fixed = known != UNLABELLED
    keep = fixed.copy()
    per_label = max(1, round(share * len(labels) / n_labels))
    for label in range(n_labels):
        rows = np.flatnonzero((labels == label) & ~fixed)
        room = max(0, per_label - int((fixed & (labels == label)).sum()))
        keep[rows[np.argsort(-confidence[rows], kind="stable")][:room]] = True
    return np.asarray(keep, np.bool_)
