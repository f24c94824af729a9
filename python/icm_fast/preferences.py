"""Which of two texts the found labels prefer, for the tasks whose examples compare two texts."""

from __future__ import annotations

from dataclasses import dataclass

from icm_fast.errors import InputError
from icm_fast.finished_run import FinishedRun
from icm_fast.tasks.comparisons import load_comparisons
from icm_fast.types import UNLABELLED, Comparison

_AFFIRMED = 1
"""Index of the label that affirms a claim."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Two texts in the order of the found labels."""

    question: str
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class Preferences:
    """The preferences that a run found.

    Attributes:
        pairs: Each pair of texts once, in the order of the data.
        n_contradicting: Pairs left out because labels of their claims contradict each other.
        n_unlabelled: Pairs left out because a claim of theirs is unlabelled.
    """

    pairs: tuple[Preference, ...]
    n_contradicting: int
    n_unlabelled: int


def found_preferences(run: FinishedRun) -> Preferences:
    """Turn the labels of a run into preferences; gold is not read.

    Raises:
        InputError: The task compares no texts, its data changed, or no pair is decided.
    """
    winners_of: dict[tuple[str, tuple[str, str]], list[str | None]] = {}
    for comparison, label in zip(_compared(run), run.labels, strict=True):
        first, second = comparison.first, comparison.second
        texts = (first, second) if first <= second else (second, first)
        winner = None if label == UNLABELLED else first if label == _AFFIRMED else second
        winners_of.setdefault((comparison.question, texts), []).append(winner)
    pairs: list[Preference] = []
    n_contradicting = n_unlabelled = 0
    for (question, (one, other)), winners in winners_of.items():
        if None in winners:
            n_unlabelled += 1
        elif len(set(winners)) > 1 or one == other:  # no text is better than itself
            n_contradicting += 1
        elif winners[0] == one:
            pairs.append(Preference(question, chosen=one, rejected=other))
        else:
            pairs.append(Preference(question, chosen=other, rejected=one))
    if not pairs:
        raise InputError(
            f"the labels of {run.folder} decide no pair: {n_contradicting} contradict themselves "
            f"and {n_unlabelled} are not fully labelled; let the search run longer"
        )
    return Preferences(tuple(pairs), n_contradicting, n_unlabelled)


def _compared(run: FinishedRun) -> list[Comparison]:
    """What each example of the run compares, in their order."""
    if run.source is None:
        raise InputError(
            f"{run.folder} does not say which task its data came from, so the texts that its "
            "examples compare are unknown; search a task by name"
        )
    known = load_comparisons(run.source)
    compared = []
    for example in run.dataset.examples:
        comparison = known.get(example.id)
        if comparison is None or comparison.claim != example.prompt:
            raise InputError(
                f"example {example.id!r} of {run.folder} is not what the data of task "
                f"{run.source.task!r} hold now; put back the data that were searched"
            )
        compared.append(comparison)
    return compared
