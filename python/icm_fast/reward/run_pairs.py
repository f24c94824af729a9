"""Pairs from the labels of a run, whoever gave the labels.

The two texts of a claim are read back from its prompt, so neither the data file nor gold is needed:

- ``alpaca-preference``, ``author-gender``, ``sun-poems``: the claim that one text is better (was
  written by a man) decides which is chosen; both orders of a pair give one pair.
- ``movie-sentiment``, plain or paired: every review that is labelled positive is chosen over up to
  ``PARTNERS`` reviews that are labelled negative, and the other way round, with no prompt.

A comparison (a review) whose labels contradict one another, or that has none, is left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from icm_fast.errors import InputError
from icm_fast.reward.pairs import SAME_TEXT, Pair, PairSet
from icm_fast.types import UNLABELLED, Dataset, IntArray

if TYPE_CHECKING:
    from icm_fast.finished_run import FinishedRun

PARTNERS = 4

CONTRADICTING = "labels contradict one another"
NOT_LABELLED = "not labelled"

# The prompts of icm_fast.tasks; a response there is one line, so the last match is the right one.
_COMPARISONS = {
    "alpaca-preference": re.compile(
        r"Human: (?P<prompt>.*)\nResponse 1: (?P<first>[^\n]*)\nResponse 2: (?P<second>[^\n]*)"
        r"\nClaim: Response 1 is [^\n]*\n[^\n]*",
        re.DOTALL,
    ),
    "author-gender": re.compile(
        r"(?P<prompt>)Blog A: (?P<first>[^\n]*)\nBlog B: (?P<second>[^\n]*)\nClaim: Blog A [^\n]*"
        r"\n[^\n]*"
    ),
    "sun-poems": re.compile(
        r"(?P<prompt>)Poem A: (?P<first>.*)\nPoem B: (?P<second>.*)\nClaim: Poem A [^\n]*\n[^\n]*",
        re.DOTALL,
    ),
}
_REVIEWS = "movie-sentiment"
_REVIEW = re.compile(
    r"Review: (?P<text>[^\n]*)\n(?:Sentiment:|Claim: the review is (?P<claim>\w+)\n[^\n]*)"
)

_Key = TypeVar("_Key")
_Vote = tuple[bool, float]
"""What a label says, and its margin."""


def pairs_of_run(run: FinishedRun) -> PairSet:
    """Pairs from the labels that a search found; their margins are the leave-one-out margins.

    Raises:
        InputError: As of :func:`pairs_of_labels`.
    """
    margins = [0.0 if margin is None else margin for margin in run.margins]
    return pairs_of_labels(run.dataset, run.labels, margins, seed=run.config.seed)


def pairs_of_labels(
    dataset: Dataset,
    labels: IntArray,
    margins: Sequence[float] | None = None,
    *,
    seed: int = 0,
) -> PairSet:
    """Pairs from labels.

    Args:
        dataset: Of a task that compares texts, or of movie-sentiment.
        labels: ``[n]`` label indices, -1 where unlabelled.
        margins: ``[n]`` margin of each label, in nats; None for none. The margin of a pair is the
            mean over its claims (of two reviews: the sum of theirs), and at least 0.
        seed: Seed of which reviews meet.

    Raises:
        InputError: Another task, or no pair is left.
    """
    margins = [0.0] * len(dataset) if margins is None else margins
    if dataset.name in _COMPARISONS:
        made = _comparisons(dataset, labels, margins)
    elif dataset.name == _REVIEWS:
        made = _reviews(dataset, labels, margins, seed)
    else:
        known = ", ".join(sorted([*_COMPARISONS, _REVIEWS]))
        raise InputError(
            f"task {dataset.name!r} gives no pairs; take a run of {known}, or a file with the "
            "columns prompt, chosen, rejected"
        )
    if not made.pairs:
        reasons = ", ".join(f"{n} x {why}" for why, n in made.left_out.items())
        raise InputError(
            f"the labels of {dataset.name} give no pair ({reasons or 'one label only'}); search "
            "again with another seed or more examples"
        )
    return made


def _comparisons(dataset: Dataset, labels: IntArray, margins: Sequence[float]) -> PairSet:
    """One pair for each two texts; a vote says that the text that sorts first is better."""
    votes: dict[tuple[str, str, str], list[_Vote]] = {}
    groups: dict[tuple[str, str, str], str | None] = {}
    for example, label, margin in zip(dataset.examples, labels, margins, strict=True):
        found = _match(_COMPARISONS[dataset.name], example.prompt, example.id)
        first, second = found["first"], found["second"]
        key = (found["prompt"], min(first, second), max(first, second))
        groups.setdefault(key, example.group)
        said = votes.setdefault(key, [])
        if label != UNLABELLED:
            said.append(((label == 1) == (first == key[1]), margin))
    decided, left_out = _decide(votes)
    pairs = []
    for (prompt, low, high), (low_wins, margin) in decided.items():
        if low == high:
            left_out[SAME_TEXT] += 1
            continue
        chosen, rejected = (low, high) if low_wins else (high, low)
        pairs.append(Pair(prompt, chosen, rejected, groups[prompt, low, high], max(margin, 0.0)))
    return PairSet(tuple(pairs), dict(left_out))


def _reviews(dataset: Dataset, labels: IntArray, margins: Sequence[float], seed: int) -> PairSet:
    """Positive reviews over negative ones."""
    votes: dict[str, list[_Vote]] = {}
    for example, label, margin in zip(dataset.examples, labels, margins, strict=True):
        found = _match(_REVIEW, example.prompt, example.id)
        said = votes.setdefault(found["text"], [])
        if label != UNLABELLED:
            said.append(((label == 1) == (found["claim"] != "negative"), margin))
    decided, left_out = _decide(votes)
    sides: dict[bool, list[tuple[str, float]]] = {True: [], False: []}
    for text, (positive, margin) in decided.items():
        sides[positive].append((text, margin))
    pairs = [
        Pair("", good, bad, good, max(margin + other, 0.0))
        for (good, margin), (bad, other) in _partners(sides[True], sides[False], seed)
    ]
    return PairSet(tuple(pairs), dict(left_out))


def _partners(
    some: list[tuple[str, float]], others: list[tuple[str, float]], seed: int
) -> Iterable[tuple[tuple[str, float], tuple[str, float]]]:
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


def _decide(votes: dict[_Key, list[_Vote]]) -> tuple[dict[_Key, _Vote], Counter[str]]:
    """What the votes on each thing agree on, with their mean margin."""
    decided: dict[_Key, _Vote] = {}
    left_out: Counter[str] = Counter()
    for key, said in votes.items():
        if not said:
            left_out[NOT_LABELLED] += 1
        elif len({vote for vote, _ in said}) > 1:
            left_out[CONTRADICTING] += 1
        else:
            decided[key] = (said[0][0], float(np.mean([margin for _, margin in said])))
    return decided, left_out


def _match(pattern: re.Pattern[str], prompt: str, name: str) -> re.Match[str]:
    found = pattern.fullmatch(prompt)
    if found is None:
        raise InputError(
            f"example {name!r} has a prompt of another form, {prompt[:60]!r}; its texts cannot be "
            "read back: write a file with the columns prompt, chosen, rejected"
        )
    return found
