"""Experiment files are read whole or refused with one clear line."""

from contextlib import suppress
from dataclasses import fields

import pytest

from icm_fast.errors import InputError
from icm_fast.experiments.definition import DEFINITIONS, experiment_names, read_experiment
from icm_fast.experiments.experiment import Column, Experiment

COLUMN = {"name": "a", "task": "larger-than", "model": "smollm2"}


def small(*columns, **suite):
    return {"small": {"seeds": [0], "columns": list(columns), **suite}}


def test_every_experiment_of_the_package_can_be_read():
    names = experiment_names()
    assert "main" in names
    for name in names:
        assert read_experiment(name, "small").columns, name
    assert len(names) == len(list(DEFINITIONS.iterdir()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suites": {}}, "no suites"),
        ({"figure": "pie"}, "unknown figure 'pie'"),
        ({"figure": "lines"}, "needs an x in every column"),
        ({"methods": ["icmm"]}, r"unknown method 'icmm'.*icm"),
        ({"titel": "x"}, "unknown key 'titel'.*title"),
        ({"suites": small()}, "no columns"),
        ({"suites": small({**COLUMN, "seed": 3})}, "column 0: unknown key 'seed'"),
        ({"suites": small({**COLUMN, "model": None})}, "column 0: no model; name one with --model"),
        ({"suites": small({**COLUMN, "n": 0})}, "column 0: n must be 1 or more, got 0"),
        ({"suites": small({**COLUMN, "start": "gold"})}, "unknown start 'gold'.*golden"),
        ({"suites": small({**COLUMN, "batch_size": 0})}, "batch_size must be 1 or more, got 0"),
        (
            {"suites": small({**COLUMN, "batch_size": 2, "start": "golden"})},
            "start applies to one search, batch_size to several",
        ),
        ({"suites": small({**COLUMN, "settings": {"alhpa": 1}})}, "unknown setting 'alhpa'.*alpha"),
        ({"suites": small(COLUMN, COLUMN)}, "two columns have the name 'a'"),
        ({"suites": small(COLUMN, seeds=[])}, "no seeds"),
        (
            {"suites": small(COLUMN, seeds=3)},
            "seeds must be a list of different integers, 0 or more",
        ),
        ({"suites": small(COLUMN, seeds=[1, 1])}, r"different integers, 0 or more, got \[1, 1\]"),
        ({"suites": small({**COLUMN, "x": "size"})}, "x must be a number or parameters"),
        ({"suites": small({**COLUMN, "tuning": {"epoch": 1}})}, "unknown setting 'epoch'.*epochs"),
        (
            {"suites": small({**COLUMN, "name": 64})},
            "name must be text, got 64; put it in",
        ),
        (
            {"suites": small({**COLUMN, "options": ["a"]})},
            "column 0, options: expected names",
        ),
        ({"suites": {"small": ["a"]}}, r"expected names and values, got \['a'\]"),
        ({"common": "n"}, "expected names and values, got 'n'"),
    ],
)
def test_what_is_wrong_is_named(definition, changes, message):
    with pytest.raises(InputError, match=message):
        read_experiment(str(definition(**changes)), "small")


def test_empty_settings_are_none(definition):
    empty = {**COLUMN, "settings": None, "tuning": None, "options": None}
    (column,) = read_experiment(str(definition(suites=small(empty))), "small").columns
    assert (column.settings, column.tuning, column.options) == ({}, {}, {})


def test_names_are_suggested(definition):
    with pytest.raises(InputError, match=r"unknown experiment 'mian'.*main"):
        read_experiment("mian", "small")
    with pytest.raises(InputError, match=r"unknown suite 'smal'.*small"):
        read_experiment(str(definition()), "smal")
    with pytest.raises(InputError, match=r"no column 'number'.*numbers"):
        read_experiment(str(definition()), "small", only=["number"])


def test_another_model_joins_columns_that_differ_in_the_model_only(definition):
    path = definition(suites=small(COLUMN, {**COLUMN, "name": "b", "model": "gemma3-270m"}))
    assert len(read_experiment(str(path), "small").columns) == 2
    (column,) = read_experiment(str(path), "small", models=["mine"]).columns
    assert (column.name, column.model) == ("a", "mine")
    found = read_experiment(str(path), "small", models=["mine", "x/other"]).columns
    assert [(c.name, c.model) for c in found] == [("a, mine", "mine"), ("a, other", "x/other")]


def test_names_say_which_model_it_is(definition):
    named = {**COLUMN, "name": "numbers, {model}"}
    path = str(definition(suites=small({**named, "model_title": "Small"}, {**named, "model": "b"})))
    assert [c.name for c in read_experiment(path, "small").columns] == [
        "numbers, Small",
        "numbers, b",
    ]
    (column,) = read_experiment(path, "small", models=["x/Large"], only=["numbers, b"]).columns
    assert (column.name, column.model) == ("numbers, Large", "x/Large")
    assert column.digest() != read_experiment(path, "small").columns[1].digest()


def test_other_models_seeds_and_columns_have_files_of_their_own(definition):
    path = str(definition(suites=small(COLUMN, {**COLUMN, "name": "b", "n": 9})))
    names = {
        read_experiment(path, "small", **choice).file_name
        for choice in (
            {},
            {"models": ["m"]},
            {"models": ["x/m", "y/m"]},
            {"models": ["z/m", "y/m"]},
            {"seeds": [3]},
            {"only": ["b"]},
        )
    }
    assert len(names) == 6
    assert {"tiny-small", "tiny-small-m", "tiny-small-seed-3", "tiny-small-b"} <= names


def test_results_are_kept_apart_by_what_they_depend_on(definition):
    changed = [
        COLUMN,
        {**COLUMN, "name": "z", "x": 3.0, "methods": ["icm"]},
        {**COLUMN, "settings": {"alpha": 1.0}},
        {**COLUMN, "n_test": 7},
    ]
    digests = []
    for column in changed:
        (read,) = read_experiment(str(definition(suites=small(column))), "small").columns
        digests.append(read.digest())
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


ODD = ([], {}, [{}], {"a": 1}, 3, -1, 0.5, "x", True, False, None, float("nan"), [1], [None], 2**70)


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("key", [f.name for f in fields(Experiment)] + ["suites", "common"])
def test_any_value_of_an_experiment_is_read_or_refused(definition, key, value):
    with suppress(InputError):
        found = read_experiment(str(definition(**{key: value})), "small")
        assert isinstance(getattr(found, key, ""), str | tuple | bool)


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("key", [f.name for f in fields(Column)])
def test_any_value_of_a_column_is_read_or_refused(definition, key, value):
    with suppress(InputError):
        path = str(definition(suites=small({**COLUMN, key: value})))
        (column,) = read_experiment(path, "small").columns
        assert type(getattr(column, key)) in KINDS.get(key, (str, type(None)))
        column.digest()


MAPPING, COUNT = (dict,), (int, type(None))
KINDS = {
    **dict.fromkeys(("options", "settings", "tuning"), MAPPING),
    **dict.fromkeys(("n", "n_test", "n_start", "n_orders", "batch_size"), COUNT),
    "x": (int, float, str, type(None)),
    "constraints": (bool,),
    "methods": (tuple,),
}
