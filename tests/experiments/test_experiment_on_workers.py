"""An experiment on workers finds what it finds in one process."""

from __future__ import annotations

import json

import pytest

from fake_ray import FakeRay, fake_cluster
from icm_fast.errors import InputError
from icm_fast.experiments.definition import read_experiment
from icm_fast.experiments.run import run_experiment

METHODS = ["zero-shot", "zero-shot-chat", "icm", "bootstrapped"]
METHODS += ["random-shots", "balanced-bootstrapping"]


def without_times(value):
    """JSON without what differs from run to run."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if "seconds" not in k}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def results(folder):
    """All results of cells, and the bytes of their searches."""
    found = {}
    for path in sorted((folder / "cells").rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("labels.jsonl", "events.jsonl", "evaluations.bin"):
            found[name] = path.read_bytes()
        elif path.suffix == ".json" and "search/" not in name and "tuned/" not in name:
            found[name] = without_times(json.loads(path.read_text()))
    return found


def test_the_same_results(definition, tmp_path, tiny_folder):
    column = {"name": "numbers", "task": "larger-than", "n": 6, "n_test": 4, "n_orders": 1}
    column["model"] = str(tiny_folder)
    suites = {"small": {"seeds": [0, 1], "columns": [column]}}
    experiment = read_experiment(str(definition(suites=suites, methods=METHODS)), "small")
    ray = FakeRay(lambda method, n: method != "machine" and n % 7 == 0)
    cluster = fake_cluster(ray, 2)
    documents = {
        name: run_experiment(experiment, output=tmp_path / name, command=("x",), **more)
        for name, more in (("serial", {}), ("ray", {"open_one": cluster.model}))
    }
    cluster.close()
    assert len(ray.started) > 2
    assert results(tmp_path / "ray") == results(tmp_path / "serial")
    assert without_times(dict(documents["ray"])) == without_times(dict(documents["serial"]))


def test_batches_with_tuning_in_between_are_the_work_of_one_process(
    definition, tmp_path, tiny_folder
):
    column = {"name": "batches", "task": "larger-than", "n": 8, "n_test": 8, "batch_size": 4}
    column["model"] = str(tiny_folder)
    suites = {"small": {"seeds": [0], "columns": [column]}}
    experiment = read_experiment(str(definition(suites=suites)), "small")
    cluster = fake_cluster(FakeRay(), 1)
    with pytest.raises(InputError, match="is the work of one process; drop --ray"):
        run_experiment(experiment, output=tmp_path, command=("x",), open_one=cluster.model)
    cluster.close()
    assert not (tmp_path / "cells").exists()
