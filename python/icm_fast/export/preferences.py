"""Which of two texts the labels prefer, for tasks whose examples compare two texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icm_fast.errors import InputError
from icm_fast.runs.finished import FinishedRun
from icm_fast.tasks.comparisons import load_comparisons
from icm_fast.tasks.source import TaskSource
from icm_fast.types import UNLABELLED, Comparison, Dataset, IntArray

CONTRADICTING = "labels contradict one another"
NOT_LABELLED = "not labelled"
SAME_TEXT = "both texts are the same"

_AFFIRMED = 1
"""Index of the label that affirms a claim."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Two texts, ranked by the labels.

    Attributes:
        question: What both texts answer.
        chosen: The better text.
        rejected: The other text.
        margin: Mean margin of its labels, in nats; may be negative.
        confidence: Mean confidence of its labels; None where it is not known.
        group: Group of their examples.
    """

    question: str
    chosen: str
    rejected: str
    margin: float
    group: str | None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Preferences:
    """The preferences that follow from labels.

    Attributes:
        pairs: Each pair of texts once, in the order of the data.
        left_out: Number of pairs left out, by reason.
    """

    pairs: tuple[Preference, ...]
    left_out: Counter[str]

    @property
    def n_contradicting(self) -> int:
        """Pairs left out because their labels contradict each other or their texts are the same."""
        return self.left_out[CONTRADICTING] + self.left_out[SAME_TEXT]

    @property
    def n_unlabelled(self) -> int:
        """Pairs left out because they are not (fully) labelled."""
        return self.left_out[NOT_LABELLED]


def found_preferences(run: FinishedRun) -> Preferences:
    """Turn the labels of a run into preferences, without reading gold.

    Raises:
        InputError: The task does not compare texts, its data changed, or no pair is decided.
    """
    found = preferences(run.dataset, read_comparisons(run.dataset, run.source), run.labels)
    if not found.pairs:
        raise InputError(
            f"no pair of texts in {run.folder} has usable labels: those of {found.n_contradicting} "
            f"contradict each other, {found.n_unlabelled} are not fully labelled; let the search "
            "run longer"
        )
    return found


def preferences(
    dataset: Dataset,
    compared: Sequence[Comparison],
    labels: IntArray,
    margins: Sequence[float] | None = None,
    *,
    confidence: Sequence[float] | None = None,
    partly: bool = False,
) -> Preferences:
    """Preferences that follow from labels; each pair of texts once, however many claims it has.

    Args:
        dataset: The examples.
        compared: ``[n]``, what each example compares.
        labels: ``[n]`` label indices, -1 where unlabelled.
        margins: ``[n]``, margin of each label in nats; zeros by default.
        confidence: ``[n]``, of each label; None where it is not known.
        partly: Let the labelled claims of a pair decide even if others are unlabelled.
    """
    margins = [0.0] * len(dataset) if margins is None else margins
    groups: dict[tuple[str, str, str], str | None] = {}
    known = [math.nan] * len(dataset) if confidence is None else confidence
    claims: dict[tuple[str, str, str], list[tuple[str | None, float, float]]] = {}
    for example, c, label, margin, sure in zip(
        dataset.examples, compared, labels, margins, known, strict=True
    ):
        key = (c.question, min(c.first, c.second), max(c.first, c.second))
        groups.setdefault(key, example.group)
        winner = None if label == UNLABELLED else c.first if label == _AFFIRMED else c.second
        claims.setdefault(key, []).append((winner, margin, sure))
    pairs: list[Preference] = []
    left_out: Counter[str] = Counter()
    for (question, one, other), said in claims.items():
        decided = [vote for vote in said if vote[0] is not None]
        winners = {winner for winner, _, _ in decided}
        if not decided or (len(decided) < len(said) and not partly):
            left_out[NOT_LABELLED] += 1
        elif len(winners) > 1:
            left_out[CONTRADICTING] += 1
        elif one == other:
            left_out[SAME_TEXT] += 1
        else:
            texts = (one, other) if one in winners else (other, one)
            margin, sure = (float(np.mean([vote[k] for vote in decided])) for k in (1, 2))
            group = groups[question, one, other]
            known_sure = None if confidence is None else sure
            pairs.append(Preference(question, *texts, margin, group, known_sure))
    return Preferences(tuple(pairs), left_out)


def read_comparisons(dataset: Dataset, source: TaskSource | None) -> list[Comparison]:
    """What each example compares, read again from the source of the data.

    Raises:
        InputError: No source, a task that does not compare texts, or data that changed.
    """
    if source is None:
        raise InputError(
            f"data set {dataset.name} does not say which task it came from, so the texts that its "
            "examples compare are unknown; search a task by name"
        )
    known = load_comparisons(source)
    for example in dataset.examples:
        if example.id not in known or known[example.id].claim != example.prompt:
            raise InputError(
                f"example {example.id!r} differs from the present data of task {source.task!r}; "
                "restore the data that were searched"
            )
    return [known[example.id] for example in dataset.examples]
