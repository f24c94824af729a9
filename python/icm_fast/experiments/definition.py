"""Experiments as data: a YAML file names columns (what is labelled), methods, and seeds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError, suggest
from icm_fast.experiments.methods import METHODS
from icm_fast.files import reading
from icm_fast.tasks.source import TaskSource
from icm_fast.training.config import TuningConfig

FIGURES = ("bars", "lines")
STARTS = ("golden", "worst", "random")
DEFINITIONS = Path(__file__).parent / "definitions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What one search labels, and what is done with the labels: one place on the figure's axis.

    Attributes:
        name: As the figure and the table call it; ``{model}`` in it is ``model_title``.
        task: Name of the task.
        model: Hub id, folder, .gguf file or embedded name.
        model_title: As the name calls the model; the last part of ``model`` by default.
        chat_model: The model of the method ``zero-shot-chat``; the column's own by default.
        data: File of the task's data, inside the folder of ``--data``; None where it needs none.
        n: Examples to label.
        batch_size: Most examples in one search; before each, the model is tuned on the labels found
            so far (:func:`icm_fast.training.sft.iterate`). None: one search labels all.
        n_test: Held-out examples.
        x: Place on a numeric axis (figure ``lines``); ``parameters``: millions of parameters of the
            model.
        options: Options of the task.
        settings: Settings of the search.
        constraints: Whether the search knows the task's constraints.
        start: Labels that the search begins with, from gold: ``golden``, ``worst`` or ``random``.
        n_start: How many.
        n_orders: Random orders of the contexts under which the found labels are scored again.
        methods: Methods instead of the experiment's.
        tuning: Settings of fine-tuning.
    """

    name: str
    task: str
    model: str
    model_title: str = ""
    chat_model: str | None = None
    data: str | None = None
    n: int = 64
    batch_size: int | None = None
    n_test: int = 100
    x: float | str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    constraints: bool = True
    start: str | None = None
    n_start: int = 8
    n_orders: int = 0
    methods: tuple[str, ...] = ()
    tuning: Mapping[str, Any] = field(default_factory=dict)

    def source(self, seed: int, data: Path | None) -> TaskSource:
        """Where the examples come from; ``data`` is the folder of the data files."""
        file = None if self.data is None or data is None else str(data / self.data)
        return TaskSource(self.task, file, limit=self.n, seed=seed, options=dict(self.options))

    def config(self, seed: int) -> SearchConfig:
        """Settings of the search.

        Raises:
            InputError: Unknown or bad settings.
        """
        return SearchConfig.from_mapping({**self.settings, "seed": seed})

    def tuning_config(self, seed: int) -> TuningConfig:
        """Settings of fine-tuning.

        Raises:
            InputError: Unknown or bad settings.
        """
        return TuningConfig.from_mapping({"seed": seed, **self.tuning})

    def digest(self) -> str:
        """Short hash of all that is said here and decides results; names the folder of its cells.

        What is not said here, such as the content of data and model, is in the cell's identity.
        """
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("name", "model_title", "x", "methods", "n_orders"):
            del content[name]
        for name in ("chat_model", "batch_size"):
            if content[name] is None:
                del content[name]
        text = json.dumps(content, sort_keys=True, default=dict)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One experiment at one size.

    Attributes:
        name: Name of its file.
        suite: Name of the size.
        title: Headline of the figure.
        source: The table or figure of the paper that it repeats, or "ours".
        figure: ``bars`` (a panel of methods per column) or ``lines`` (methods over ``x``).
        x_label: Of the axis of ``lines``.
        log_x: Whether that axis is logarithmic.
        seeds: Each is another draw of data, search and test examples.
        methods: Names of methods, in the order shown.
        columns: What is labelled.
        note: What a reader has to know.
        variant: Tells apart what was run with another model, other seeds or fewer columns; empty
            for the suite as it stands.
    """

    name: str
    suite: str
    title: str
    source: str
    figure: str
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    columns: tuple[Column, ...]
    x_label: str = ""
    log_x: bool = False
    note: str = ""
    variant: str = ""

    @property
    def file_name(self) -> str:
        """Name of its documents, without suffix."""
        return "-".join(part for part in (self.name, self.suite, self.variant) if part)

    def methods_of(self, column: Column) -> tuple[str, ...]:
        """Methods of one column."""
        return column.methods or self.methods


_TEXTS = ("name", "task", "model", "model_title", "chat_model", "data", "start")
_MAPPINGS = {"options", "settings", "tuning"}


def experiment_names() -> list[str]:
    """Names of the experiments that come with the package."""
    return sorted(path.stem for path in DEFINITIONS.glob("*.yaml"))


def read_experiment(
    name: str,
    suite: str,
    *,
    models: Sequence[str] = (),
    seeds: Sequence[int] = (),
    only: Sequence[str] = (),
) -> Experiment:
    """Read an experiment.

    Args:
        name: One that comes with the package, or the path of a YAML file.
        suite: Size to run.
        models: Replace the columns' models: each column is repeated for each of them, and columns
            that then say the same become one.
        seeds: Replace the suite's.
        only: Names of the columns to keep, as the file has them; all by default.

    Raises:
        InputError: Names what is wrong in the file, or what is not in it.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else DEFINITIONS / f"{name}.yaml"
    if not path.is_file():
        known = experiment_names()
        raise InputError(f"unknown experiment {name!r}{suggest(name, known)}; or give a YAML file")
    content = _read_yaml(path)
    suites = content.pop("suites", None)
    if not isinstance(suites, dict) or not suites:
        raise InputError(f"{path.name} has no suites; give at least one with columns and seeds")
    if suite not in suites:
        raise InputError(f"unknown suite {suite!r} of {path.name}{suggest(suite, suites)}")
    common = _mapping(path.name, content.pop("common", None) or {})
    merged = {**content, **_mapping(path.name, suites[suite] or {})}
    columns = merged.pop("columns", None)
    if not isinstance(columns, list) or not columns:
        raise InputError(f"suite {suite!r} of {path.name} has no columns; list at least one")
    built = [
        _column(path.name, row, {**common, **_mapping(path.name, column)}, models)
        for row, column in enumerate(columns)
    ]
    chosen = _choose(built, only)
    if models:
        titles = _titles(models)
        chosen = _merged([_with_model(c, model, titles) for model in models for c in chosen])
    merged |= {"columns": tuple(chosen), "name": path.stem, "suite": suite}
    merged["variant"] = _variant(models, seeds, only)
    if seeds:
        merged["seeds"] = seeds
    return _experiment(path.name, merged)


def _seeds(where: str, seeds: Any) -> tuple[int, ...]:
    whole = isinstance(seeds, list | tuple) and all(
        isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds
    )
    if not whole or len(set(seeds)) < len(seeds):
        raise InputError(f"{where}: seeds must be a list of different whole numbers, got {seeds!r}")
    return tuple(seeds)


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    with reading(path, "give the YAML file of an experiment"):
        text = path.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path.name} is no YAML: {' '.join(str(error).split())}") from error
    return _mapping(path.name, content)


def _mapping(where: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InputError(f"{where}: expected names and values, got {content!r}")
    return dict(content)


def _variant(models: Sequence[str], seeds: Sequence[int], only: Sequence[str]) -> str:
    """A word for file names; short, and its own for every choice."""
    if not (models or seeds or only):
        return ""
    text = json.dumps([list(models), list(seeds), list(only)])
    words = [*map(_title_of, models), *(f"seed-{seed}" for seed in seeds), *only]
    slug = re.sub(r"[^a-z0-9.]+", "-", "-".join(words).lower()).strip("-.")
    short = all(_title_of(model) == model for model in models)  # a folder's name may be another's
    if short and len(slug) <= 60:
        return slug
    return f"{slug[:48]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _title_of(model: str) -> str:
    return Path(model).name


def _titles(models: Sequence[str]) -> dict[str, str]:
    """Short names of models; the whole ones where short ones are the same."""
    short = [_title_of(model) for model in models]
    return {m: t if short.count(t) == 1 else m for m, t in zip(models, short, strict=True)}


def _with_model(column: Column, model: str, titles: Mapping[str, str]) -> Column:
    name = column.name
    if len(titles) > 1 and "{model}" not in name:
        name += ", {model}"
    return replace(column, name=name, model=model, model_title=titles[model], chat_model=None)


def _column(where: str, row: int, content: dict[str, Any], models: Sequence[str]) -> Column:
    known = {f.name for f in fields(Column)}
    for key in content:
        if key not in known:
            raise InputError(f"{where}, column {row}: unknown key {key!r}{suggest(key, known)}")
    if models:
        content["model"] = content.get("model") or models[0]
    missing = [key for key in ("name", "task", "model") if not content.get(key)]
    if missing:
        fix = "; name one with --model" if missing == ["model"] else ""
        raise InputError(f"{where}, column {row}: no {missing[0]}{fix}")
    for key in _TEXTS:
        if content.get(key) is not None and not isinstance(content[key], str):
            raise InputError(
                f"{where}, column {row}: {key} must be text, got {content[key]!r}; put it in quotes"
            )
    for key in _MAPPINGS & set(content):
        content[key] = _mapping(f"{where}, column {row}, {key}", content[key] or {})
    content["methods"] = _known_methods(where, content.get("methods") or ())
    column = Column(**content)
    least_of = {"n": 1, "n_test": 1, "n_start": 1, "n_orders": 0}
    if column.batch_size is not None:
        least_of["batch_size"] = 1
    for name, least in least_of.items():
        value = getattr(column, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(
                f"{where}, column {row}: {name} must be {least} or more, got {value!r}"
            )
    if column.start is not None and column.start not in STARTS:
        start = column.start
        raise InputError(f"{where}, column {row}: unknown start {start!r}{suggest(start, STARTS)}")
    if column.start is not None and column.batch_size is not None:
        raise InputError(
            f"{where}, column {row}: start is of one search, batch_size of several; leave one out"
        )
    if isinstance(column.x, str) and column.x != "parameters":
        raise InputError(
            f"{where}, column {row}: x must be a number or parameters, got {column.x!r}"
        )
    column.config(0)
    column.tuning_config(0)
    return replace(column, model_title=column.model_title or _title_of(column.model))


def _known_methods(where: str, names: Any) -> tuple[str, ...]:
    for name in names:
        if name not in METHODS:
            raise InputError(f"{where}: unknown method {name!r}{suggest(str(name), METHODS)}")
    return tuple(names)


def _merged(columns: Sequence[Column]) -> list[Column]:
    """The first of all columns that differ in their name only."""
    kept: dict[str, Column] = {}
    for column in columns:
        kept.setdefault(column.digest(), column)
    return list(kept.values())


def _choose(columns: Sequence[Column], only: Sequence[str]) -> list[Column]:
    names = [shown_name(column) for column in columns]
    for name in only:
        if name not in names:
            raise InputError(f"no column {name!r}{suggest(name, names)}")
    return [column for column in columns if not only or shown_name(column) in only]


def shown_name(column: Column) -> str:
    """A column's name with its model's title."""
    return column.name.replace("{model}", column.model_title)


def _experiment(where: str, content: dict[str, Any]) -> Experiment:
    known = {f.name for f in fields(Experiment)}
    for key in content:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}{suggest(key, known)}")
    for key in ("title", "source", "figure", "seeds", "methods"):
        if not content.get(key):
            raise InputError(f"{where}: no {key}; add it")
    if content["figure"] not in FIGURES:
        figure = content["figure"]
        raise InputError(f"{where}: unknown figure {figure!r}{suggest(str(figure), FIGURES)}")
    content["methods"] = _known_methods(where, content["methods"])
    content["seeds"] = _seeds(where, content["seeds"])
    content["columns"] = tuple(
        replace(column, name=shown_name(column)) for column in content["columns"]
    )
    experiment = Experiment(**content)
    if experiment.figure == "lines" and any(c.x is None for c in experiment.columns):
        raise InputError(f"{where}: figure lines needs an x in every column")
    names = [column.name for column in experiment.columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{where}: two columns have one name, {twice!r}; tell them apart, by {{model}} where "
            "models differ"
        )
    return replace(experiment, note=" ".join(experiment.note.split()))
