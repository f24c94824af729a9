"""tweet-sentiment, news-sentiment, snippet-source: short texts of one source distribution.

The sentiment of a tweet or of a sentence of a newspaper's editorials, by the mean score of many
raters; and which of three kinds of text a snippet is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from icm_fast.assets.locate import (
    MOVIE_GROUND_TRUTH,
    NEWS,
    PRODUCT_REVIEWS,
    TWEETS,
    movie_review_file,
    snippet_file,
)
from icm_fast.errors import InputError, shown
from icm_fast.files import expanded
from icm_fast.tasks.assembly import TaskData, assemble
from icm_fast.tasks.duplicates import same_text
from icm_fast.tasks.rows import PathLike
from icm_fast.tasks.sampling import SPLITS, digest, in_split
from icm_fast.tasks.snippet_files import Snippet, check_choice, read_snippets
from icm_fast.types import Example

_NEUTRAL = 0.5
"""Mean scores from -0.5 to 0.5, of -4 to 4, are neutral."""
_LABELS = {
    2: (" negative", " positive"),
    3: (" negative", " neutral", " positive"),
}
_SOURCES = {
    " movie": (MOVIE_GROUND_TRUTH, "movie review"),
    " product": (PRODUCT_REVIEWS, "product review"),
    " politics": (NEWS, "sentence"),
}
"""By label: the file, and what one of its texts is."""


def load_tweet_sentiment(
    path: PathLike | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    classes: int = 3,
    split: str = "all",
    max_chars: int | None = None,
) -> TaskData:
    """Load tweets; equal texts, whatever their case, count once.

    Args:
        path: The ground-truth file or its folder; None takes the installed, verified copy.
        limit: Maximum number of examples.
        seed: Seed of the draw of tweets.
        classes: 3 for negative (mean score below -0.5), neutral and positive (above 0.5), at
            natural shares; 2 leaves the neutral tweets out. Which these are is known by gold alone,
            so with 2, and only then, gold decides which examples there are; with 3 it does not.
        split: ``search`` (four tweets in five), ``test`` (the others) or ``all``, decided by the
            text alone.
        max_chars: Skip longer tweets.
    """
    return _load_sentiment(
        "tweet-sentiment",
        _file(path, TWEETS),
        ("tweet", "Tweet"),
        limit=limit,
        seed=seed,
        classes=classes,
        split=split,
        max_chars=max_chars,
    )


def load_news_sentiment(
    path: PathLike | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    classes: int = 3,
    split: str = "all",
    max_chars: int | None = None,
) -> TaskData:
    """Load sentences of a newspaper's editorials; takes the arguments of ``tweet-sentiment``.

    Args:
        path: The ground-truth file or its folder; None takes the installed, verified copy.
        limit: Maximum number of examples.
        seed: Seed of the draw of sentences.
        classes: 3, or 2 without the neutral sentences, which gold alone tells apart.
        split: ``search`` (four sentences in five), ``test`` (the others) or ``all``.
        max_chars: Skip longer sentences.
    """
    return _load_sentiment(
        "news-sentiment",
        _file(path, NEWS),
        ("news", "Sentence"),
        limit=limit,
        seed=seed,
        classes=classes,
        split=split,
        max_chars=max_chars,
    )


def load_snippet_source(
    path: PathLike | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    split: str = "all",
    max_chars: int | None = None,
) -> TaskData:
    """Load movie reviews, product reviews and sentences of editorials, as many of each.

    The label is where a text is from, so equal numbers need it: of every source the pool keeps as
    many texts as the smallest one has after ``split`` and ``max_chars``, in an order of the texts
    alone. The draw of ``limit`` examples from this pool, their ids and their order do not depend on
    the sources. Equal texts, whatever their case, count once, for the first source that has them.

    Args:
        path: Folder of the three ground-truth files; None takes the installed, verified copies.
        limit: Maximum number of examples.
        seed: Seed of the draw of texts.
        split: ``search`` (four texts in five), ``test`` (the others) or ``all``, decided by the
            text alone.
        max_chars: Skip longer texts.
    """
    check_choice("snippet-source", "split", split, SPLITS)
    seen: set[str] = set()
    sources: list[list[tuple[int, str, int]]] = []
    for label, (name, kind) in enumerate(_SOURCES.values()):
        # Numbers of the texts serve as ids and as their order: neither says what the source is.
        found = sorted(
            (digest("snippet", _key(snippet.text)), snippet.text, label)
            for snippet in _different(read_snippets(_source_file(path, name), kind), seen)
            if _taken(snippet.text, split, max_chars)
        )
        if not found:
            raise _nothing_left(kind, f"split = {split} and max_chars = {max_chars}")
        sources.append(found)
    smallest = min(map(len, sources))
    pool = sorted(entry for found in sources for entry in found[:smallest])
    return assemble(
        "snippet-source",
        [Example(f"snippet-{number:016x}", f"Text: {text}\nTopic:") for number, text, _ in pool],
        [label for _, _, label in pool],
        labels=tuple(_SOURCES),
        limit=limit,
        seed=seed,
    )


def _load_sentiment(
    task: str,
    path: Path,
    names: tuple[str, str],
    *,
    limit: int | None,
    seed: int,
    classes: int,
    split: str,
    max_chars: int | None,
) -> TaskData:
    """Load a task of sentiment.

    Args:
        task: Its name.
        path: The ground-truth file.
        names: What begins an id, and what a prompt calls the text.
        limit: As in the loaders, like the others.
        seed: As there.
        classes: As there.
        split: As there.
        max_chars: As there.
    """
    check_choice(task, "split", split, SPLITS)
    if classes not in _LABELS:
        raise InputError(f"classes = {shown(classes)} of {task} is not 2 or 3; choose one of them")
    prefix, title = names
    examples: list[Example] = []
    gold: list[int] = []
    for snippet in _different(read_snippets(path, title.lower()), set()):
        if not _taken(snippet.text, split, max_chars):
            continue
        side = (snippet.score > _NEUTRAL) - (snippet.score < -_NEUTRAL)
        if side == 0 and classes == 2:
            continue
        examples.append(
            Example(f"{prefix}-{snippet.row_id}", f"{title}: {snippet.text}\nSentiment:")
        )
        gold.append(side + 1 if classes == 3 else int(side > 0))
    if not examples:
        raise _nothing_left(
            title.lower(), f"split = {split}, max_chars = {max_chars} and classes = {classes}"
        )
    return assemble(task, examples, gold, labels=_LABELS[classes], limit=limit, seed=seed)


def _key(text: str) -> str:
    """What equal texts have in common."""
    return same_text(text).lower()


def _different(snippets: Iterator[Snippet], seen: set[str]) -> Iterator[Snippet]:
    """Yield the snippets whose text was not seen before; notes it."""
    for snippet in snippets:
        key = _key(snippet.text)
        if key not in seen:
            seen.add(key)
            yield snippet


def _taken(text: str, split: str, max_chars: int | None) -> bool:
    return in_split(_key(text), split) and (max_chars is None or len(text) <= max_chars)


def _nothing_left(kind: str, options: str) -> InputError:
    return InputError(f"no {kind} is left by {options}; raise max_chars or choose another split")


def _file(path: PathLike | None, name: str) -> Path:
    if path is None:
        return snippet_file(name)
    given = expanded(path)
    return given / name if given.is_dir() else given


def _source_file(path: PathLike | None, name: str) -> Path:
    if path is None:
        return movie_review_file(name) if name == MOVIE_GROUND_TRUTH else snippet_file(name)
    folder = expanded(path)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder; snippet-source reads three files, so give the folder of "
            f"{', '.join(file for file, _ in _SOURCES.values())}"
        )
    return folder / name
