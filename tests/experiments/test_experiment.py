"""A whole experiment on a tiny model: files, resumption, baselines, gold kept from the search."""

import json

import numpy as np
import pytest

from icm_fast import SearchConfig
from icm_fast.cli import run
from icm_fast.errors import InputError
from icm_fast.evaluation.gold import load_gold
from icm_fast.evaluation.many_shot import many_shot, predict
from icm_fast.evaluation.metrics import accuracy
from icm_fast.experiments import cell
from icm_fast.experiments.definition import read_experiment
from icm_fast.experiments.run import run_experiment
from icm_fast.model.hardware import available_processors
from icm_fast.model.lazy import LazyModel
from icm_fast.runs.finished import read_run
from icm_fast.tasks.source import TaskSource
from icm_fast.training.sft import TuningConfig, iterate
from listeners import Listener
from tiny_models import byte_tokenizer, one_thread, tiny_model  # noqa: F401

ALL = ["zero-shot", "zero-shot-dialogue", "zero-shot-chat", "bootstrapped", "icm", "golden"]
ALL += ["crowd", "perturbed", "random-shots", "balanced-bootstrapping"]


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


def test_a_column_may_be_labelled_by_batches(definition, tmp_path, tiny_folder, monkeypatch):
    output = tmp_path / "out"
    common = {"task": "larger-than", "model": str(tiny_folder), "n": 8, "n_test": 8}
    common |= {"settings": {"dtype": "float32", "max_evaluations": 3}}
    common |= {"tuning": {"epochs": 1, "dtype": "float32"}, "methods": ["golden", "icm-tuned"]}
    columns = [{**common, "name": "at once"}, {**common, "name": "by two", "batch_size": 2}]
    path = definition(suites={"small": {"seeds": [0, 1], "columns": columns}})
    document = run_tiny(path, output)
    once, by_two = document["columns"]
    assert by_two["definition"]["batch_size"] == 2
    assert by_two["identities"][0]["batch_size"] == 2
    assert "batch_size" not in once["identities"][0]
    facts = by_two["search"]["seeds"][1]
    (folder,) = (output / "cells").glob("by-two-*")
    batches = sorted((folder / "seed-1" / "search").glob("batch-*"))
    assert len(batches) >= 4
    runs = [read_run(batch / "search") for batch in batches]
    assert facts["n"] == sum(len(run.labels) for run in runs) == 8
    assert facts["utility"] == pytest.approx(sum(run.summary["utility"] for run in runs))
    assert facts["n_evaluations"] == sum(run.summary["n_evaluations"] for run in runs)
    assert facts["gold_utility"] is None
    # What it found is what iterate finds, by example.
    dataset = TaskSource("larger-than", limit=8, seed=1).load_dataset()
    model = LazyModel(str(tiny_folder), dtype="float32").load()
    found = iterate(
        dataset,
        model=model,
        batch_size=2,
        search_config=SearchConfig(dtype="float32", max_evaluations=3, seed=1),
        tuning_config=TuningConfig(epochs=1, dtype="float32", seed=1),
    )
    gold = load_gold(TaskSource("larger-than", limit=8, seed=1), dataset)
    assert facts["agreement"] == pytest.approx(float((found.labels == gold).mean()))
    (labels,) = (folder / "seed-1" / "search").glob("labels.jsonl")
    lines = [json.loads(line) for line in labels.read_text().splitlines()]
    assert [line["label_index"] for line in lines] == found.labels.tolist()
    # Nothing is searched again.
    monkeypatch.setattr("icm_fast.training.sft.iterative.search", None)
    assert run_tiny(path, output) == document


def test_an_interrupted_experiment_goes_on_with_what_is_missing(definition, tmp_path, monkeypatch):
    path, output = definition(methods=ALL), tmp_path / "out"
    whole = run_tiny(path, tmp_path / "whole")
    calls = []
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


def test_experiments_share_the_cells_that_both_have(definition, tmp_path, tiny_folder, monkeypatch):
    output = tmp_path / "out"
    first = run_tiny(definition(methods=["golden"]), output)
    monkeypatch.setattr(cell, "run_search", None)  # a second search would fail
    column = {"name": "a: other name", "task": "larger-than", "n": 8, "n_test": 8}
    column["model"] = str(tiny_folder)
    suites = {"small": {"seeds": [1, 0], "columns": [column]}}
    second = run_tiny(definition(suites=suites, methods=["golden", "icm"]), output)
    assert len(list((output / "cells").iterdir())) == 1
    assert second["columns"][0]["name"] == "a: other name"
    kept = [document["columns"][0]["search"]["seeds"] for document in (first, second)]
    assert kept[0] == kept[1][::-1]


def test_gold_changes_no_byte_of_the_search(definition, tmp_path, monkeypatch):
    path = definition()
    run_tiny(path, tmp_path / "a", seeds=[0])
    import icm_fast.tasks.arithmetic as arithmetic

    real = arithmetic.assemble

    def flipped(name, examples, gold, **options):
        return real(name, examples, [1 - y for y in gold], **options)

    monkeypatch.setattr(arithmetic, "assemble", flipped)
    run_tiny(path, tmp_path / "b", seeds=[0])
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


def test_the_default_takes_moves_from_a_start_from_gold(definition, tmp_path, tiny_folder):
    column = {"task": "larger-than", "model": str(tiny_folder), "n": 8, "n_test": 8}
    columns = [{**column, "name": "right", "start": "golden", "n_start": 4}]
    path = definition(methods=["icm"], suites={"small": {"seeds": [1], "columns": columns}})
    run_tiny(path, tmp_path / "out")
    (cell,) = (tmp_path / "out" / "cells").iterdir()
    found = read_run(cell / "seed-1" / "search")
    assert found.config == SearchConfig(
        seed=1, start="given", initial_labels=found.config.initial_labels
    )
    assert found.config.max_iterations > 0
    assert found.config.second_opinion
    assert (found.labels >= 0).all()


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
    assert json.loads((output / "tiny-small-seed-3.json").read_text())["seeds"] == [3]


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


def test_results_of_other_data_or_weights_are_not_taken_over(definition, tmp_path):
    """What a column's name and settings do not tell: the content of its file and its model."""
    model = tmp_path / "model"
    tiny_model("llama", max_position_embeddings=4096).save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    rows = [
        {"question": f"Is {k} even?", "choice": c, "consistency_id": k, "label": int(c == "yes")}
        for k in range(12)
        for c in ("yes", "no")
    ]
    data = tmp_path / "data"
    data.mkdir()
    file = data / "t.jsonl"
    column = {"name": "q", "task": "truthfulqa", "model": str(model), "data": "t.jsonl"}
    column |= {"n": 4, "n_test": 6}
    path = definition(suites={"small": {"seeds": [0], "columns": [column]}}, methods=["zero-shot"])

    def again():
        experiment = read_experiment(str(path), "small")
        return run_experiment(experiment, output=tmp_path / "o", command=[], data=data)

    def write(change=lambda row: row):
        file.write_text("".join(json.dumps(change(row)) + "\n" for row in rows))

    write()
    first = again()
    assert again()["columns"] == first["columns"]
    (folder,) = (tmp_path / "o" / "cells").glob("*/seed-0")
    record = json.loads((folder / "identity.json").read_text())
    record["identity"]["config"]["anchors"] = 0  # as version 0.1 wrote it
    (folder / "identity.json").write_text(json.dumps(record))
    again()
    before = {p.name: p.read_bytes() for p in folder.glob("*.json")}
    write(lambda row: {**row, "label": 1 - row["label"]})
    with pytest.raises(InputError, match=r"different cell of an experiment: (data|test)_gold is"):
        again()
    write(lambda row: {**row, "question": row["question"] + "?"})
    with pytest.raises(InputError, match=r"different cell of an experiment: (data|test)"):
        again()
    write()
    tiny_model("qwen2", max_position_embeddings=4096).save_pretrained(model)
    with pytest.raises(InputError, match="different cell of an experiment: model is"):
        again()
    assert {p.name: p.read_bytes() for p in folder.glob("*.json")} == before
    (folder / "identity.json").unlink()
    with pytest.raises(InputError, match=r"does not say what its results came from"):
        again()


def test_documents_say_what_they_came_from(definition, tmp_path):
    document = run_tiny(definition(), tmp_path / "out", seeds=[0])
    assert set(document["versions"]) >= {"torch", "transformers", "trl", "peft"}
    (column,) = document["columns"]
    assert column["definition"]["task"] == "larger-than"
    (identity,) = column["identities"]
    assert len(identity["model"]["fingerprint"]) == 64
    assert document["machine"].endswith(f"{available_processors()} threads")
    assert identity["config"]["seed"] == 0
    assert column["search"]["seeds"][0]["n_parameters"] > 0


def test_a_column_is_written_when_it_is_done(definition, tmp_path, tiny_folder):
    column = {"task": "larger-than", "model": str(tiny_folder), "n": 4, "n_test": 4}
    columns = [{**column, "name": "a"}, {**column, "name": "b"}]
    path = definition(suites={"small": {"seeds": [0], "columns": columns}})
    seen = []

    def say(text):
        if text.startswith("[2/2]"):
            seen.append(json.loads((tmp_path / "o" / "tiny-small.json").read_text())["columns"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(
            read_experiment(str(path), "small"),
            output=tmp_path / "o",
            command=[],
            progress=Listener(on_say=say),
        )
    assert [[c["name"] for c in columns] for columns in seen] == [["a"]]


def test_a_setting_of_the_second_column_is_in_force(definition, tmp_path, tiny_folder):
    column = {"task": "larger-than", "model": str(tiny_folder), "n": 4, "n_test": 4}
    columns = [
        {**column, "name": "a", "settings": {"dtype": "bfloat16"}},
        {**column, "name": "b", "settings": {"dtype": "float32"}},
    ]
    path = definition(suites={"small": {"seeds": [0], "columns": columns}}, methods=["zero-shot"])
    found = run_tiny(path, tmp_path / "o")["columns"]
    assert [c["identities"][0]["model"]["dtype"] for c in found] == ["bfloat16", "float32"]


def test_a_chat_model_answers_in_the_chat_template(definition, tmp_path, tiny_folder):
    base = tmp_path / "base"
    tiny_model("mistral", max_position_embeddings=4096).save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    column = {"task": "larger-than", "model": str(base), "n": 4, "n_test": 4}
    columns = [
        {**column, "name": "alone"},
        {**column, "name": "with", "chat_model": str(tiny_folder)},
    ]
    path = definition(
        suites={"small": {"seeds": [0], "columns": columns}}, methods=["zero-shot-chat"]
    )
    alone, other = run_tiny(path, tmp_path / "o")["columns"]
    assert alone["methods"]["zero-shot-chat"] == {"left_out": "the model has no chat template"}
    assert "plain" in other["methods"]["zero-shot-chat"]


def test_perturbed_labels_are_as_many_as_found_ones(definition, tmp_path, tiny_folder):
    column = {"name": "a", "task": "larger-than", "model": str(tiny_folder), "n": 8, "n_test": 4}
    column["settings"] = {"preset": "paper", "n_initial": 4, "max_iterations": 0}
    path = definition(
        suites={"small": {"seeds": [0], "columns": [column]}}, methods=["icm", "perturbed"]
    )
    (found,) = run_tiny(path, tmp_path / "o")["columns"]
    assert found["methods"]["icm"]["n_shots"] == found["methods"]["perturbed"]["n_shots"] == 4
    shares = [found["methods"][name]["labels_accuracy"] for name in ("icm", "perturbed")]
    assert shares[0] == pytest.approx(shares[1])


def test_a_document_names_each_machine_that_computed_something(definition, tmp_path, monkeypatch):
    """And not the one that only read results again."""
    for name, seeds in (("old", [0]), ("new", [0, 1]), ("idle", [0, 1])):
        monkeypatch.setattr(cell, "_machine", lambda name=name: name)
        document = run_tiny(definition(), tmp_path / "out", seeds=seeds)
        assert document["machine"] == ("old" if name == "old" else "old and new")
