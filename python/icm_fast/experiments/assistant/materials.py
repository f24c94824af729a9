"""The reviews of every stage of the assistant; no review is used in two of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from icm_fast.errors import InputError
from icm_fast.experiments.demo import MAX_CHARS
from icm_fast.tasks.sampling import digest
from icm_fast.tasks.source import TaskSource
from icm_fast.training.chat import prompt_text
from icm_fast.training.reward import pairs_of_labels
from icm_fast.types import Dataset, IntArray

START_CHARS = 80
"""Longest review of the start policy; all other reviews have ``MAX_CHARS`` at most."""

_TEXT = re.compile(r"Review: ([^\n]*)\n")


@dataclass(frozen=True, slots=True)
class Materials:
    """The data of the stages, besides the reviews that were searched.

    Attributes:
        start: Reviews that the start policy learns to write, longer than those of other stages.
        pool: Rows with ``response_1`` and ``response_2``, without labels.
        pool_reviews: The reviews in these rows, for the human-supervised reward model.
        pool_gold: ``[2 * n_pool]`` their gold labels.
        prompts: Beginnings of reviews, all different.
        judge: Reviews that train the judge.
        judge_gold: ``[n_judge]`` gold labels.
        test: Held-out reviews, from the split ``test``.
        test_gold: ``[n_test]`` gold labels.
        test_pairs: Rows with ``prompt``, ``chosen`` and ``rejected``, from gold of ``test``.
    """

    start: tuple[str, ...]
    pool: tuple[dict[str, str], ...]
    pool_reviews: Dataset
    pool_gold: IntArray
    prompts: tuple[str, ...]
    judge: Dataset
    judge_gold: IntArray
    test: Dataset
    test_gold: IntArray
    test_pairs: tuple[dict[str, str], ...]

    @property
    def judge_texts(self) -> list[str]:
        """Texts of the judge's reviews."""
        return _texts(self.judge)

    @property
    def test_texts(self) -> list[str]:
        """Texts of the held-out reviews."""
        return _texts(self.test)


def draw_materials(
    searched: Dataset,
    *,
    seed: int,
    n_start: int,
    n_pool: int,
    n_judge: int,
    n_test: int,
    n_prompts: int,
    n_words: int,
) -> Materials:
    """Draw the reviews of every stage, by their texts alone.

    Args:
        searched: Reviews of the search; they are left out.
        seed: Seed of the draw.
        n_start: Reviews of the start policy.
        n_pool: Pairs of the pool.
        n_judge: Reviews that train the judge.
        n_test: Held-out reviews.
        n_prompts: Beginnings.
        n_words: Words of a beginning; shorter reviews are skipped.

    Raises:
        InputError: Too few reviews.
    """
    data, gold = _reviews("search")
    # By text, since some reviews are in the data twice.
    row_of = {text: row for row, text in enumerate(_texts(data))}
    texts = sorted(set(row_of) - set(_texts(searched)), key=lambda t: digest("assistant", seed, t))
    judge, others = texts[:n_judge], texts[n_judge:]
    pool, others = others[: 2 * n_pool], others[2 * n_pool :]
    starts = [" ".join(text.split()[:n_words]) for text in others if len(text.split()) > n_words]
    prompts = tuple(dict.fromkeys(starts))[:n_prompts]
    longer = set(_texts(_reviews("search", START_CHARS)[0])) - set(row_of)
    start = sorted(longer, key=lambda text: digest("start", seed, text))[:n_start]
    rows = [row_of[text] for text in judge]
    pool_rows = [row_of[text] for text in pool]
    test, test_gold = _reviews("test")
    test_rows = sorted(range(len(test)), key=lambda i: digest("test", seed, test.examples[i].id))
    _check_enough("n_start", len(start), n_start, "longer reviews")
    _check_enough("n_judge", len(judge), n_judge, "reviews")
    _check_enough("n_pool", len(pool) // 2, n_pool, "pairs of reviews")
    _check_enough("n_prompts", len(prompts), n_prompts, "prompts")
    _check_enough("n_test", len(test_rows), n_test, "held-out reviews")
    kept = np.array(sorted(test_rows[:n_test]))
    held_out = _part(test, kept)
    pairs = pairs_of_labels(held_out, test_gold[kept], seed=seed)
    return Materials(
        start=tuple(start),
        pool=_pool_rows(pool),
        pool_reviews=_part(data, np.array(pool_rows)),
        pool_gold=gold[pool_rows],
        prompts=prompts,
        judge=_part(data, np.array(rows)),
        judge_gold=gold[rows],
        test=held_out,
        test_gold=test_gold[kept],
        test_pairs=tuple(
            {"prompt": prompt_text(p.prompt), "chosen": p.chosen, "rejected": p.rejected}
            for p in pairs.pairs
        ),
    )


def _pool_rows(texts: Sequence[str]) -> tuple[dict[str, str], ...]:
    """Neighbouring texts as pairs."""
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return tuple({"response_1": one, "response_2": other} for one, other in pairs)


def _check_enough(name: str, available: int, wanted: int, things: str) -> None:
    if available < wanted:
        raise InputError(
            f"{name} is {wanted}, but only {available} {things} are available; lower {name}"
        )


def _reviews(split: str, max_chars: int = MAX_CHARS) -> tuple[Dataset, IntArray]:
    return TaskSource("movie-sentiment", options={"split": split, "max_chars": max_chars}).load()


def _part(dataset: Dataset, rows: npt.NDArray[np.int64]) -> Dataset:
    examples = tuple(dataset.examples[int(row)] for row in rows)
    return replace(dataset, examples=examples, constraints=())


def _texts(dataset: Dataset) -> list[str]:
    found = [_TEXT.match(example.prompt) for example in dataset.examples]
    return [match[1] for match in found if match is not None]
