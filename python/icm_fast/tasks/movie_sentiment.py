"""movie-sentiment: movie-review snippets with the scores of many human raters.

Gold is the sign of the mean score; ``crowd_labels`` gives the sign of one rater's own
score, the label that a single crowd worker would have given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from icm_fast.assets.locate import MOVIE_GROUND_TRUTH, MOVIE_RATINGS, movie_review_file
from icm_fast.errors import InputError, shown
from icm_fast.files import expanded
from icm_fast.tasks.assembly import TRUTH_LABELS, TaskData, assemble
from icm_fast.tasks.constraints import Asymmetric
from icm_fast.tasks.rows import PathLike
from icm_fast.tasks.sampling import SPLITS, in_split
from icm_fast.tasks.snippet_files import (
    Snippet,
    check_choice,
    parse_score,
    read_fields,
    read_snippets,
)
from icm_fast.types import Comparison, Dataset, Example, IntArray

SENTIMENT_LABELS = (" negative", " positive")
_FORMS = ("plain", "paired")
_CLAIMS = ("negative", "positive")


def load_movie_sentiment(
    path: PathLike | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    form: str = "plain",
    split: str = "all",
    max_chars: int | None = None,
) -> TaskData:
    """Load movie-review snippets.

    Args:
        path: The ground-truth file or its folder; None takes the installed, verified copy.
        limit: Maximum number of examples (two per review in the paired form).
        seed: Seed of the draw of reviews.
        form: ``plain`` asks for the sentiment; ``paired`` makes two claims per review, that
            it is positive and that it is negative, exactly one of them true.
        split: ``search`` (four reviews in five), ``test`` (the others) or ``all``. Which side
            a review is on depends on its text alone, so the sides never share a text.
        max_chars: Skip longer reviews.
    """
    for option, value, known in (("form", form, _FORMS), ("split", split, SPLITS)):
        check_choice("movie-sentiment", option, value, known)
    make = _plain if form == "plain" else _paired
    examples: list[Example] = []
    gold: list[int] = []
    for row_id, score, text in _reviews(_file(path, MOVIE_GROUND_TRUTH)):
        if in_split(text.lower(), split) and (max_chars is None or len(text) <= max_chars):
            for example, label in make(row_id, text, score):
                examples.append(example)
                gold.append(label)
    if not examples:
        raise InputError(f"no review is as short as max_chars = {max_chars}; raise it")
    return assemble(
        "movie-sentiment",
        examples,
        gold,
        labels=SENTIMENT_LABELS if form == "plain" else TRUTH_LABELS,
        rules=() if form == "plain" else (Asymmetric(),),
        limit=limit,
        seed=seed,
    )


def review_comparisons(
    path: PathLike | None = None, *, form: str = "plain", **_: object
) -> dict[str, Comparison]:
    """The two sentiments that a claim of the paired form chooses between, by example id.

    Takes the arguments of the loader; scores are not read.

    Raises:
        InputError: The plain form, which compares no texts.
    """
    if form != "paired":
        raise InputError(
            "movie-sentiment asks for a sentiment and does not compare two texts; search it with "
            "--option form=paired, whose claims do"
        )
    return {
        example.id: Comparison(
            example.prompt,
            f"Review: {text}\nIs the review positive or negative?",
            *(_CLAIMS if example.id.endswith(_CLAIMS[0]) else reversed(_CLAIMS)),
        )
        for row_id, _score, text in _reviews(_file(path, MOVIE_GROUND_TRUTH))
        for example, _gold in _paired(row_id, text, 0.0)
    }


def crowd_labels(
    task: str, dataset: Dataset, rater: int = 0, path: PathLike | None = None
) -> IntArray:
    """Return the labels that one rater's own scores give.

    Args:
        task: ``"movie-sentiment"``, the only task with individual raters.
        dataset: A data set of that task, or a subset of one; either form.
        rater: Index of the rater, from 0; every review has at least 15.
        path: The ratings file or its folder; None takes the installed, verified copy.

    Returns:
        ``[n_examples]`` int32; -1 if the rater was neutral.

    Raises:
        InputError: Another task, or a review without such a rater.
    """
    if task != "movie-sentiment":
        raise InputError(f"task {shown(task)} has no crowd labels; known: movie-sentiment")
    ratings = dict(_ratings(_file(path, MOVIE_RATINGS)))
    labels = [_crowd_label(example, ratings, rater) for example in dataset.examples]
    return np.array(labels, dtype=np.int32)


def _crowd_label(example: Example, ratings: dict[str, list[float]], rater: int) -> int:
    prefix, _, rest = example.id.partition("-")
    row_id, _, claim = rest.partition("-")
    if prefix != "movie" or row_id not in ratings:
        raise InputError(
            f"example {shown(example.id)} is not a review in the ratings file; use a data set of "
            "movie-sentiment"
        )
    scores = ratings[row_id]
    if not 0 <= rater < len(scores):
        raise InputError(
            f"example {shown(example.id)} has {len(scores)} raters, so there is no rater {rater}; "
            f"choose one of 0 to {len(scores) - 1}"
        )
    return _sign_label(scores[rater], negated=claim == "negative")


def _sign_label(score: float, *, negated: bool = False) -> int:
    if score == 0:
        return -1
    return int((score > 0) != negated)


def _plain(row_id: str, text: str, score: float) -> Iterator[tuple[Example, int]]:
    example = Example(id=f"movie-{row_id}", prompt=f"Review: {text}\nSentiment:")
    yield example, _sign_label(score)


def _paired(row_id: str, text: str, score: float) -> Iterator[tuple[Example, int]]:
    for claim in reversed(_CLAIMS):
        prompt = f"Review: {text}\nClaim: the review is {claim}\nThis claim is"
        example = Example(id=f"movie-{row_id}-{claim}", prompt=prompt, group=f"movie-{row_id}")
        yield example, _sign_label(score, negated=claim == "negative")


def _file(path: PathLike | None, name: str) -> Path:
    if path is None:
        return movie_review_file(name)
    given = expanded(path)
    return given / name if given.is_dir() else given


def _reviews(path: Path) -> Iterator[Snippet]:
    return read_snippets(path, "review")


def _ratings(path: Path) -> Iterator[tuple[str, list[float]]]:
    """Yield (row id, the raters' scores in -4 .. 4)."""
    for where, fields in read_fields(path, 4):
        yield fields[0], parse_score(where, fields[3], json.loads)
