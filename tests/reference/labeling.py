"""Labellings and score tables as plain Python values."""

from __future__ import annotations

from collections.abc import Iterable

from icm_fast.types import UNLABELLED

Labels = tuple[int, ...]
"""One label index per example, -1 for "unlabelled"."""

Scores = list[list[float]]
"""``[n_examples][n_labels]``, natural log."""


def labelled_examples(labels: Iterable[int]) -> list[int]:
    """Return the examples that have a label, ascending."""
    return [i for i, y in enumerate(labels) if y != UNLABELLED]


def unlabelled_examples(labels: Iterable[int]) -> list[int]:
    """Return the examples that have none, ascending."""
    return [i for i, y in enumerate(labels) if y == UNLABELLED]


def with_label(labels: Labels, example: int, label: int) -> Labels:
    """Return the labels with one of them replaced."""
    return (*labels[:example], label, *labels[example + 1 :])


def add_up(values: Iterable[float]) -> float:
    """Return the sum from left to right; ``sum`` compensates rounding from Python 3.12 on."""
    total = 0.0
    for value in values:
        total += value
    return total
