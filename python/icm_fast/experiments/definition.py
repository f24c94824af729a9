"""Reading an experiment from a YAML file of columns (what is labelled), methods and seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from icm_fast.documents import parse_yaml
from icm_fast.errors import InputError, shown, suggest
from icm_fast.experiments.experiment import (
    FIGURES,
    STARTS,
    Column,
    Experiment,
    shown_name,
    title_of,
)
from icm_fast.experiments.methods import METHODS
from icm_fast.experiments.selection import choose, for_models, variant_name
from icm_fast.files import reading
from icm_fast.tasks.registry import text_options

DEFINITIONS = Path(__file__).parent / "definitions"

_TEXTS = ("name", "task", "model", "model_title", "chat_model", "data", "start")
_EXPERIMENT_TEXTS = ("title", "source", "figure", "x_label", "note")
_FLAGS = ("constraints", "log_x")
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
        models: Replace the models of the columns: each column is repeated for each model, and
            columns that become the same are merged.
        seeds: Replace the seeds of the suite.
        only: Names of the columns to keep, as in the file; all by default.

    Raises:
        InputError: Names what is wrong in the file or missing from it.
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
    chosen = choose(built, only)
    if models:
        chosen = for_models(chosen, models)
    merged |= {"columns": tuple(chosen), "name": path.stem, "suite": suite}
    merged["variant"] = variant_name(models, seeds, only)
    if seeds:
        merged["seeds"] = seeds
    return _experiment(path.name, merged)


def _seeds(where: str, seeds: object) -> tuple[int, ...]:
    if not isinstance(seeds, list | tuple) or not _different_seeds(seeds):
        raise InputError(
            f"{where}: seeds must be a list of different integers, 0 or more, got {shown(seeds)}"
        )
    return tuple(seeds)


def _different_seeds(seeds: Sequence[object]) -> bool:
    valid = all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in seeds)
    return valid and len(set(seeds)) == len(seeds)


def _read_yaml(path: Path) -> dict[str, Any]:
    with reading(path, "give the YAML file of an experiment"):
        content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not UTF-8 at byte {error.start}; convert it") from error
    return _mapping(path.name, parse_yaml(text, path.name, texts=text_options(), aliases=True))


def _mapping(where: str, content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InputError(f"{where}: expected names and values, got {shown(content)}")
    return dict(content)


def _column(where: str, row: int, content: dict[str, Any], models: Sequence[str]) -> Column:
    known = {f.name for f in fields(Column)}
    for key in content:
        if key not in known:
            raise InputError(
                f"{where}, column {row}: unknown key {shown(key)}{suggest(key, known)}"
            )
    if models:
        content["model"] = content.get("model") or models[0]
    missing = [key for key in ("name", "task", "model") if not content.get(key)]
    if missing:
        fix = "; name one with --model" if missing == ["model"] else ""
        raise InputError(f"{where}, column {row}: no {missing[0]}{fix}")
    _check_kinds(f"{where}, column {row}", content, _TEXTS)
    for key in _MAPPINGS & set(content):
        content[key] = _mapping(f"{where}, column {row}, {key}", content[key] or {})
    content["methods"] = _known_methods(where, content.get("methods") or ())
    column = Column(**content)
    _check_column(f"{where}, column {row}", column)
    return replace(column, model_title=column.model_title or title_of(column.model))


def _check_kinds(where: str, content: Mapping[str, object], texts: Sequence[str]) -> None:
    for key in texts:
        value = content.get(key)
        if value is not None and not isinstance(value, str):
            raise InputError(f"{where}: {key} must be text, got {shown(value)}; put it in quotes")
    for key in _FLAGS:
        if not isinstance(content.get(key, True), bool):
            raise InputError(f"{where}: {key} must be true or false, got {shown(content[key])}")


def _check_column(where: str, column: Column) -> None:
    least_of = {"n": 1, "n_test": 1, "n_start": 1, "n_orders": 0}
    if column.batch_size is not None:
        least_of["batch_size"] = 1
    for name, least in least_of.items():
        value = getattr(column, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{where}: {name} must be {least} or more, got {value!r}")
    if column.start is not None and column.start not in STARTS:
        raise InputError(f"{where}: unknown start {column.start!r}{suggest(column.start, STARTS)}")
    if column.start is not None and column.batch_size is not None:
        raise InputError(
            f"{where}: start applies to one search, batch_size to several; leave one out"
        )
    if column.x is not None and column.x != "parameters" and not _is_number(column.x):
        raise InputError(f"{where}: x must be a number or parameters, got {shown(column.x)}")
    column.config(0)
    column.tuning_config(0)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _known_methods(where: str, names: object) -> tuple[str, ...]:
    if not isinstance(names, list | tuple):
        raise InputError(f"{where}: methods must be a list of names, got {shown(names)}")
    for name in names:
        if not isinstance(name, str) or name not in METHODS:
            raise InputError(f"{where}: unknown method {name!r}{suggest(str(name), METHODS)}")
    return tuple(names)


def _experiment(where: str, content: dict[str, Any]) -> Experiment:
    known = {f.name for f in fields(Experiment)}
    for key in content:
        if key not in known:
            raise InputError(f"{where}: unknown key {shown(key)}{suggest(key, known)}")
    _check_kinds(where, content, _EXPERIMENT_TEXTS)
    content = {key: value for key, value in content.items() if value is not None}
    for key in ("title", "source", "figure", "seeds", "methods"):
        if not content.get(key):
            raise InputError(f"{where}: no {key}; add it")
    if content["figure"] not in FIGURES:
        figure = content["figure"]
        raise InputError(f"{where}: unknown figure {figure!r}{suggest(figure, FIGURES)}")
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
            f"{where}: two columns have the name {twice!r}; give them different names, with "
            "{model} if their models differ"
        )
    return replace(experiment, note=" ".join(experiment.note.split()))
