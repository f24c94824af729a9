"""Which of two texts labels prefer, whoever gave them, for the tasks whose examples compare two."""

from __future__ import annotations

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
    """Two texts in the order of the labels.

    Attributes:
        question: What both answer.
        chosen: The better one.
        rejected: The other one.
        margin: Mean margin of the labels that say so, in nats; may be negative.
        group: Group of their examples.
    """

    question: str
    chosen: str
    rejected: str
    margin: float
    group: str | None


@dataclass(frozen=True, slots=True)
class Preferences:
    """The preferences that labels decide.

    Attributes:
        pairs: Each pair of texts once, in the order of the data.
        left_out: Why pairs were left out, and how many.
    """

    pairs: tuple[Preference, ...]
    left_out: Counter[str]

    @property
    def n_contradicting(self) -> int:
        """Pairs left out because no labels could be right about them."""
        return self.left_out[CONTRADICTING] + self.left_out[SAME_TEXT]

    @property
    def n_unlabelled(self) -> int:
        """Pairs left out because they are not labelled, or not fully."""
        return self.left_out[NOT_LABELLED]


def found_preferences(run: FinishedRun) -> Preferences:
    """Turn the labels of a run into preferences; gold is not read.

    Raises:
        InputError: The task compares no texts, its data changed, or no pair is decided.
    """
    found = preferences(run.dataset, read_comparisons(run.dataset, run.source), run.labels)
    if not found.pairs:
        raise InputError(
            f"the labels of {run.folder} decide no pair: {found.n_contradicting} contradict "
            f"themselves and {found.n_unlabelled} are not fully labelled; let the search run longer"
        )
    return found


def preferences(
    dataset: Dataset,
    compared: Sequence[Comparison],
    labels: IntArray,
    margins: Sequence[float] | None = None,
    *,
    partly: bool = False,
) -> Preferences:
    """What labels say of texts, each pair of texts once, whatever number of claims it has.

    Args:
        dataset: The examples.
        compared: ``[n]``, what each of them compares.
        labels: ``[n]`` label indices, -1 where unlabelled.
        margins: ``[n]`` margin of each label in nats; None for none.
        partly: Let the labelled claims of a pair decide where others are unlabelled.
    """
    margins = [0.0] * len(dataset) if margins is None else margins
    groups: dict[tuple[str, str, str], str | None] = {}
    claims: dict[tuple[str, str, str], list[tuple[str | None, float]]] = {}
    for example, c, label, margin in zip(dataset.examples, compared, labels, margins, strict=True):
        key = (c.question, min(c.first, c.second), max(c.first, c.second))
        groups.setdefault(key, example.group)
        winner = None if label == UNLABELLED else c.first if label == _AFFIRMED else c.second
        claims.setdefault(key, []).append((winner, margin))
    pairs: list[Preference] = []
    left_out: Counter[str] = Counter()
    for (question, one, other), said in claims.items():
        decided = [vote for vote in said if vote[0] is not None]
        winners = {winner for winner, _ in decided}
        if not decided or (len(decided) < len(said) and not partly):
            left_out[NOT_LABELLED] += 1
        elif len(winners) > 1:
            left_out[CONTRADICTING] += 1
        elif one == other:
            left_out[SAME_TEXT] += 1
        else:
            texts = (one, other) if one in winners else (other, one)
            margin = float(np.mean([margin for _, margin in decided]))
            pairs.append(Preference(question, *texts, margin, groups[question, one, other]))
    return Preferences(tuple(pairs), left_out)


def read_comparisons(dataset: Dataset, source: TaskSource | None) -> list[Comparison]:
    """What each example compares, in their order, read again from where they came from.

    Raises:
        InputError: No source, a task that compares no two texts, or data that changed.
    """
    if source is None:
        raise InputError(
            f"the examples of {dataset.name} do not say which task their data came from, so the "
            "texts that they compare are unknown; search a task by name"
        )
    known = load_comparisons(source)
    for example in dataset.examples:
        if example.id not in known or known[example.id].claim != example.prompt:
            raise InputError(
                f"example {example.id!r} is not what the data of task {source.task!r} hold now; "
                "put back the data that were searched"
            )
    return [known[example.id] for example in dataset.examples]
