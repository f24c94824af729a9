"""Pairs from the labels of a run, whoever gave the labels.

- ``alpaca-preference``, ``author-gender``, ``sun-poems``: the claim that one text is the better
  answer to a question decides which is chosen; both orders of a pair give one pair.
- ``movie-sentiment``, plain or paired: every review that is labelled positive is chosen over up to
  ``PARTNERS`` reviews that are labelled negative, and the other way round, with no prompt.

A comparison (a review) whose labels contradict one another, or that has none, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.errors import InputError
from icm_fast.export.preferences import Preference, preferences, read_comparisons
from icm_fast.tasks.comparisons import COMPARING_TASKS
from icm_fast.tasks.movie_sentiment import SENTIMENT_LABELS
from icm_fast.tasks.source import TaskSource
from icm_fast.training.reward.pairs import Pair, PairSet
from icm_fast.types import Comparison, Dataset, IntArray

if TYPE_CHECKING:
    from icm_fast.runs.finished import FinishedRun

PARTNERS = 4

_REVIEWS = "movie-sentiment"
_REVIEW = re.compile(r"Review: ([^\n]*)\n")
"""How both forms begin: the prompt of the plain one, the question of the paired one."""
_SENTIMENTS = ("positive", "negative")


@dataclass(frozen=True, slots=True)
class _Review:
    """A labelled review."""

    text: str
    margin: float
    confidence: float | None


def pairs_of_run(run: FinishedRun, *, with_confidence: bool = False) -> PairSet:
    """Pairs from the labels that a search found, with leave-one-out margins.

    Args:
        run: A finished run.
        with_confidence: Say how sure the labels are, where the search says so.

    Raises:
        InputError: Same as in :func:`pairs_of_labels`.
    """
    known = run.confidence if with_confidence else None
    margins = [0.0 if margin is None else margin for margin in run.margins]
    return pairs_of_labels(
        run.dataset,
        run.labels,
        margins,
        confidence=None if known is None else known.tolist(),
        source=run.source,
        seed=run.config.seed,
    )


def pairs_of_labels(
    dataset: Dataset,
    labels: IntArray,
    margins: Sequence[float] | None = None,
    *,
    confidence: Sequence[float] | None = None,
    source: TaskSource | None = None,
    seed: int = 0,
) -> PairSet:
    """Pairs from labels.

    Args:
        dataset: Of a task that compares texts, or of movie-sentiment.
        labels: ``[n]`` label indices, -1 where unlabelled.
        margins: ``[n]`` margin of each label, in nats; None for none. The margin of a pair is the
            mean over its claims (of two reviews: the sum of theirs), and at least 0.
        confidence: ``[n]`` probability of each label; None where it is not known. That of a pair is
            the mean over its claims; of two reviews it is that of both labels being right, and not
            both wrong.
        source: Where the data came from, so that the texts can be read there; plain reviews need
            none.
        seed: Seed of which reviews meet.

    Raises:
        InputError: Another task, data that changed or do not say where they came from, or no pair
            is left.
    """
    if dataset.name not in COMPARING_TASKS:
        raise InputError(
            f"task {dataset.name!r} gives no pairs; take a run of "
            f"{', '.join(sorted(COMPARING_TASKS))}, or a file with the columns prompt, chosen, "
            "rejected"
        )
    plain = tuple(dataset.label_space) == SENTIMENT_LABELS
    compared = _plain_reviews(dataset) if plain else read_comparisons(dataset, source)
    found = preferences(dataset, compared, labels, margins, confidence=confidence, partly=True)
    if dataset.name == _REVIEWS:
        pairs = _reviews(found.pairs, seed)
    else:
        pairs = [
            Pair(
                p.question,
                p.chosen,
                p.rejected,
                p.group,
                max(p.margin, 0.0),
                confidence=p.confidence,
            )
            for p in found.pairs
        ]
    if not pairs:
        reasons = ", ".join(f"{n} x {why}" for why, n in found.left_out.items())
        raise InputError(
            f"the labels of {dataset.name} give no pair ({reasons or 'one label only'}); search "
            "again with another seed or more examples"
        )
    return PairSet(tuple(pairs), found.left_out)


def _plain_reviews(dataset: Dataset) -> list[Comparison]:
    """The sentiments between which a label chooses; label 1 is the first of them."""
    return [Comparison(e.prompt, e.prompt, *_SENTIMENTS) for e in dataset.examples]


def _reviews(said: Iterable[Preference], seed: int) -> list[Pair]:
    """Positive reviews over negative ones."""
    sides: dict[str, list[_Review]] = {sentiment: [] for sentiment in _SENTIMENTS}
    for p in said:
        found = _REVIEW.match(p.question)
        if found is None:
            raise InputError(
                f"the prompt {p.question[:60]!r} is not one of {_REVIEWS}, so its review cannot be "
                "read back; write a file with the columns prompt, chosen, rejected"
            )
        sides[p.chosen].append(_Review(found[1], p.margin, p.confidence))
    positive, negative = (sides[sentiment] for sentiment in _SENTIMENTS)
    return [
        Pair(
            "",
            good.text,
            bad.text,
            good.text,
            max(good.margin + bad.margin, 0.0),
            confidence=_both_right(good.confidence, bad.confidence),
        )
        for good, bad in _partners(positive, negative, seed)
    ]


def _both_right(one: float | None, other: float | None) -> float | None:
    """Probability that two labels are right, where it is known that both are or none is."""
    if one is None or other is None:
        return None
    right, wrong = one * other, (1 - one) * (1 - other)
    return right / (right + wrong) if right + wrong else 0.5


def _partners(
    some: list[_Review], others: list[_Review], seed: int
) -> Iterable[tuple[_Review, _Review]]:
    """Different pairs of one of ``some`` and one of ``others``, all used about equally often."""
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    one = [some[int(k)] for k in random.permutation(len(some))]
    two = [others[int(k)] for k in random.permutation(len(others))]
    shorter = min(len(one), len(two))
    for shift, i in product(range(min(PARTNERS, shorter)), range(max(len(one), len(two)))):
        if len(one) >= len(two):
            yield one[i], two[(i + shift) % len(two)]
        else:
            yield one[(i + shift) % len(one)], two[i]
