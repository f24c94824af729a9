"""The part of an experiment that a command line selects: models, seeds and columns."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from icm_fast.errors import InputError, suggest
from icm_fast.experiments.experiment import Column, shown_name, title_of


def choose(columns: Sequence[Column], only: Sequence[str]) -> list[Column]:
    """The columns named in ``only``, or all; InputError for a name that no column has."""
    names = [shown_name(column) for column in columns]
    for name in only:
        if name not in names:
            raise InputError(f"no column {name!r}{suggest(name, names)}")
    return [column for column in columns if not only or shown_name(column) in only]


def for_models(columns: Sequence[Column], models: Sequence[str]) -> list[Column]:
    """Each column once for each model; columns that become the same are merged."""
    titles = _titles(models)
    return _merged([_with_model(c, model, titles) for model in models for c in columns])


def variant_name(models: Sequence[str], seeds: Sequence[int], only: Sequence[str]) -> str:
    """A short part of file names, different for every choice; empty for none."""
    if not (models or seeds or only):
        return ""
    text = json.dumps([list(models), list(seeds), list(only)])
    words = [*map(title_of, models), *(f"seed-{seed}" for seed in seeds), *only]
    slug = re.sub(r"[^a-z0-9.]+", "-", "-".join(words).lower()).strip("-.")
    short = all(title_of(model) == model for model in models)  # two folders may share a name
    if short and len(slug) <= 60:
        return slug
    return f"{slug[:48]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _titles(models: Sequence[str]) -> dict[str, str]:
    """Short names of models; full names where short ones are the same."""
    short = [title_of(model) for model in models]
    return {m: t if short.count(t) == 1 else m for m, t in zip(models, short, strict=True)}


def _with_model(column: Column, model: str, titles: Mapping[str, str]) -> Column:
    name = column.name
    if len(titles) > 1 and "{model}" not in name:
        name += ", {model}"
    return replace(column, name=name, model=model, model_title=titles[model], chat_model=None)


def _merged(columns: Sequence[Column]) -> list[Column]:
    """The first of any columns that differ only in their name."""
    kept: dict[str, Column] = {}
    for column in columns:
        kept.setdefault(column.digest(), column)
    return list(kept.values())
