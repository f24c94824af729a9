"""A whole experiment on a tiny model: files, resumption, baselines, gold kept from the search."""

import json

import numpy as np
import pytest

from icm_fast.cli import run
from icm_fast.errors import InputError
from icm_fast.evaluate import load_gold, many_shot, predict
from icm_fast.experiments.definition import read_experiment
from icm_fast.experiments.run import run_experiment
from icm_fast.finished_run import read_run
from icm_fast.lazy_scorer import LazyModel
from icm_fast.metrics import accuracy
from icm_fast.task_source import TaskSource
from tiny_models import one_thread  # noqa: F401

ALL = ["zero-shot", "zero-shot-assistant", "zero-shot-chat", "bootstrapped", "icm", "golden"]
ALL += ["crowd", "perturbed"]


def run_tiny(path, output, **options):
    experiment = read_experiment(str(path), "small", **options)
    return run_experiment(experiment, output=output, command=["icm-fast"])


def test_an_experiment_writes_what_its_parts_say(definition, tmp_path, tiny_folder):
    output = tmp_path / "out"
    document = run_tiny(definition(methods=ALL), output)
    assert {path.suffix for path in output.iterdir()} == {"", ".json", ".md", ".png", ".svg"}
    assert json.loads((output / "tiny-small.json").read_text()) == document
    (column,) = document["columns"]
    assert column["methods"]["crowd"] == {
        "left_out": "the data hold no labels of single annotators"
    }
    # One method of one seed, computed again by hand.
    (folder,) = (output / "cells").iterdir()
    found = read_run(folder / "seed-1" / "search")
    test = json.loads((folder / "seed-1" / "test.json").read_text())
    searched = TaskSource("larger-than", limit=8, seed=1)
    gold = load_gold(searched, found.dataset)
    model = LazyModel(str(tiny_folder)).load()
    everything, all_gold = TaskSource("larger-than", seed=1).load()
    ids = [e.id for e in found.dataset.examples]
    free = [i for i, e in enumerate(everything.examples) if e.id not in ids]
    assert len(test["gold"]) == 8
    facts = column["search"]["seeds"][1]
    assert facts["agreement"] == pytest.approx(float((found.labels == gold).mean()))
    stored = json.loads((folder / "seed-1" / "icm.json").read_text())
    shots = many_shot(
        found.dataset, found.labels, everything.subset(free), model=model, config=found.config
    )
    prompts = {tuple(np.round(row, 4)) for row in shots.scores.tolist()}
    assert {tuple(np.round(row, 4)) for row in stored["scores"]} <= prompts
    values = column["methods"]["icm"]["plain"]["by_seed"]
    scores = np.array(stored["scores"], np.float32)
    assert values[1] == pytest.approx(accuracy(predict(scores), np.array(test["gold"])))
    assert len(all_gold) == len(everything)
    perturbed = column["methods"]["perturbed"]["labels_accuracy"]
    agreements = [seed["agreement"] for seed in column["search"]["seeds"]]
    assert perturbed == pytest.approx(np.mean(agreements))


def test_an_interrupted_experiment_goes_on_with_what_is_missing(definition, tmp_path, monkeypatch):
    path, output = definition(methods=ALL), tmp_path / "out"
    whole = run_tiny(path, tmp_path / "whole")
    calls = []
    import icm_fast.experiments.cell as cell

    real = cell.predict_test

    def stops(method, *arguments):
        calls.append(method.title)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(method, *arguments)

    monkeypatch.setattr(cell, "predict_test", stops)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(path, output)
    assert not list(output.glob("tiny-small.*"))
    resumed = run_tiny(path, output)
    assert len(calls) == 5 + 2 * len(ALL) - 4
    without_time(whole), without_time(resumed)
    assert resumed["columns"] == whole["columns"]


def without_time(document):
    for column in document["columns"]:
        for facts in (*column["search"]["seeds"], *column["methods"].values()):
            facts.pop("seconds", None)


def test_gold_changes_no_byte_of_the_search(definition, tmp_path, monkeypatch):
    path = definition()
    run_tiny(path, tmp_path / "a", seeds=[0])
    import icm_fast.evaluate as evaluation
    import icm_fast.tasks.arithmetic as arithmetic

    real = arithmetic.assemble

    def flipped(name, examples, gold, **options):
        return real(name, examples, [1 - y for y in gold], **options)

    monkeypatch.setattr(arithmetic, "assemble", flipped)
    run_tiny(path, tmp_path / "b", seeds=[0])
    assert evaluation.load_gold is not None
    for name in ("labels.jsonl", "events.jsonl"):
        (a,), (b,) = (list(tmp_path.glob(f"{side}/cells/*/seed-0/search/{name}")) for side in "ab")
        assert a.read_bytes() == b.read_bytes()
    (a,), (b,) = (list(tmp_path.glob(f"{side}/cells/*/seed-0/search.json")) for side in "ab")
    one, other = (json.loads(p.read_text())["agreement"] for p in (a, b))
    assert one == pytest.approx(1 - other)


def test_a_start_from_gold_is_what_it_says(definition, tmp_path, tiny_folder):
    column = {"task": "larger-than", "model": str(tiny_folder), "n": 8, "n_test": 8}
    column |= {"settings": {"preset": "paper", "max_iterations": 0}, "n_start": 4}
    columns = [
        {**column, "name": "right", "start": "golden"},
        {**column, "name": "wrong", "start": "worst"},
        {**column, "name": "free", "constraints": False},
    ]
    path = definition(methods=["icm"], suites={"small": {"seeds": [0, 1], "columns": columns}})
    document = run_tiny(path, tmp_path / "out")
    starts = {}
    for folder in (tmp_path / "out" / "cells").iterdir():
        found = read_run(folder / "seed-1" / "search")
        starts[folder.name.split("-")[0]] = found
    gold = load_gold(TaskSource("larger-than", limit=8, seed=1), starts["right"].dataset)
    for name, right in (("right", True), ("wrong", False)):
        given = np.array(starts[name].config.initial_labels)
        assert ((given == gold)[given >= 0] == right).all()
        assert (given >= 0).sum() == 4
    assert starts["free"].config.start == "random"
    assert document["columns"][2]["name"] == "free"


def test_missing_data_are_named_before_anything_runs(definition, tmp_path, tiny_folder):
    column = {"name": "q", "task": "truthfulqa", "model": str(tiny_folder), "data": "t.jsonl"}
    path = definition(suites={"small": {"seeds": [0], "columns": [column]}})
    with pytest.raises(InputError, match=r"needs the file t\.jsonl; name its folder with --data"):
        run_tiny(path, tmp_path / "out")
    experiment = read_experiment(str(path), "small")
    with pytest.raises(InputError, match=r"t\.jsonl, which is not in"):
        run_experiment(experiment, output=tmp_path / "out", command=[], data=tmp_path)
    assert not (tmp_path / "out").exists()


def test_command_line(definition, tmp_path, capsys):
    assert run(["experiment"]) == 0
    assert "main" in capsys.readouterr().out
    assert run(["experiment", "nothing"]) == 2
    assert "unknown experiment 'nothing'" in capsys.readouterr().err
    output = tmp_path / "out"
    assert run(["experiment", str(definition()), "--seed", "3", "-o", str(output)]) == 0
    assert "[1/1] numbers" in capsys.readouterr().err
    assert json.loads((output / "tiny-small.json").read_text())["seeds"] == [3]


def test_lines_are_drawn_over_x(definition, tmp_path, tiny_folder):
    column = {"task": "larger-than", "model": str(tiny_folder), "n_test": 8}
    columns = [{**column, "name": f"n = {n}", "n": n, "x": n} for n in (4, 8)]
    path = definition(
        figure="lines", x_label="examples", suites={"small": {"seeds": [0], "columns": columns}}
    )
    run_tiny(path, tmp_path / "out")
    svg = (tmp_path / "out" / "tiny-small.svg").read_text()
    assert svg.startswith("<?xml")
    assert (tmp_path / "out" / "tiny-small.png").read_bytes().startswith(b"\x89PNG")


def test_orders_change_scores_and_not_labels(definition, tmp_path, tiny_folder):
    column = {"name": "numbers", "task": "larger-than", "model": str(tiny_folder), "n": 8}
    column |= {"n_test": 8, "n_orders": 3}
    path = definition(suites={"small": {"seeds": [0], "columns": [column]}})
    document = run_tiny(path, tmp_path / "out")
    (found,) = document["columns"][0]["orders"]
    assert [order["seed"] for order in found["orders"]] == [1000, 1001, 1002]
    assert len({order["utility"] for order in found["orders"]}) == 3
    assert found["spread"] > 0
    assert "## Order of the contexts" in (tmp_path / "out" / "tiny-small.md").read_text()
