"""Tasks by name: each loads a data set and, separately, the gold labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from icm_fast.errors import InputError, shown, suggest
from icm_fast.tasks.arithmetic import load_arithmetic, load_larger_than
from icm_fast.tasks.assembly import TaskData
from icm_fast.tasks.constraints import TEXT_KEYS as RULE_TEXT_KEYS
from icm_fast.tasks.custom import TEXT_KEYS, load_custom
from icm_fast.tasks.gsm8k import load_gsm8k_verification
from icm_fast.tasks.movie_sentiment import load_movie_sentiment
from icm_fast.tasks.preference import (
    load_alpaca_preference,
    load_author_gender,
    load_truthfulqa_preference,
)
from icm_fast.tasks.rows import PathLike
from icm_fast.tasks.snippets import (
    load_news_sentiment,
    load_snippet_source,
    load_tweet_sentiment,
)
from icm_fast.tasks.sun_poems import load_sun_poems
from icm_fast.tasks.truthfulqa import load_truthfulqa

TASKS: dict[str, Callable[..., TaskData]] = {
    "truthfulqa": load_truthfulqa,
    "gsm8k-verification": load_gsm8k_verification,
    "alpaca-preference": load_alpaca_preference,
    "truthfulqa-preference": load_truthfulqa_preference,
    "author-gender": load_author_gender,
    "movie-sentiment": load_movie_sentiment,
    "tweet-sentiment": load_tweet_sentiment,
    "news-sentiment": load_news_sentiment,
    "snippet-source": load_snippet_source,
    "arithmetic": load_arithmetic,
    "larger-than": load_larger_than,
    "sun-poems": load_sun_poems,
    "custom": load_custom,
}
"""Loaders by task name; all take ``(path, *, limit, seed, **options)``."""


_PAPER_OPTIONS: dict[str, dict[str, object]] = {
    "gsm8k-verification": {"rules": "different"},
    "alpaca-preference": {"paper_mode": True},
    "truthfulqa-preference": {"paper_mode": True},
    "author-gender": {"paper_mode": True},
}
_PRESET_OPTIONS: dict[str, dict[str, dict[str, object]]] = {
    "paper": _PAPER_OPTIONS,
    "paper-literal": _PAPER_OPTIONS,
    "authors-code": {
        "truthfulqa": {"rules": "groups"},
        "alpaca-preference": {"newlines": "delete"},
    },
}

_MAX_INTEGER = 2**63


def preset_options(task: str, preset: str) -> dict[str, object]:
    """Options of a task that go with a preset of :class:`~icm_fast.config.SearchConfig`.

    The command line and the experiments take them unless others are named; ``load_task`` does not
    know of presets, so in Python they are passed on: ``load_task(task, path,
    **preset_options(task, "paper"))``.
    """
    return dict(_PRESET_OPTIONS.get(preset, {}).get(task, {}))


def text_options() -> frozenset[str]:
    """Names of options, of any task, whose values are text whatever they look like."""
    words = {
        name
        for loader in TASKS.values()
        for name, parameter in inspect.signature(loader).parameters.items()
        if parameter.annotation in ("str", "str | None")
    }
    words.discard("rules")  # a word for one task, a list of rules for another
    return frozenset((*words, *TEXT_KEYS, *RULE_TEXT_KEYS))


def load_task(
    name: str,
    path: PathLike | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    **options: object,
) -> TaskData:
    """Load a task.

    Args:
        name: A key of ``TASKS``.
        path: File or folder of the data; generated and installed tasks need none.
        limit: Maximum number of examples; groups stay whole and are drawn in a seeded order.
        seed: Seed of that draw (and of generated data).
        **options: Options of the task; see its loader.

    Returns:
        The data set, which holds no gold label, and the gold labels ``[n_examples]`` int32
        (indices into the label space, -1 unknown). The data set does not depend on gold, unless an
        option of the loader says so.

    Raises:
        InputError: Unknown task or option, or data that cannot be read.
    """
    if name not in TASKS:
        raise InputError(f"unknown task {shown(name)}{suggest(str(name), TASKS)}")
    loader = TASKS[name]
    known = set(inspect.signature(loader).parameters) - {"path", "limit", "seed"}
    for option in options:
        if option not in known:
            raise InputError(
                f"unknown option {shown(option)} of task {shown(name)}"
                f"{suggest(option, known) if known else '; it has none'}"
            )
    given = {
        option: _checked(
            option, str(inspect.signature(loader).parameters[option].annotation), value
        )
        for option, value in options.items()
    }
    seed = _integer("seed", seed)
    return loader(path, limit=limit, seed=seed, **given)


def _checked(option: str, kind: str, value: object) -> object:
    """The value of an option, if the loader's parameter of this annotation takes it."""
    if value is None and kind.endswith("| None"):
        return None
    if kind.startswith("int"):
        return _integer(option, value)
    if kind in ("str", "str | None") and not isinstance(value, str):
        raise InputError(f"unknown {option} {shown(value)}; give text")
    if kind == "bool" and not isinstance(value, bool):
        raise InputError(f"{option} must be true or false, got {shown(value)}")
    return value


def _integer(option: str, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MAX_INTEGER:
        raise InputError(f"{option} must be an integer, got {shown(value)}")
    return value
