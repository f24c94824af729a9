"""The experiments that run the paper's algorithm, dry: definitions, options and first labels."""

import json

import numpy as np
import pytest
import yaml

from icm_fast.engine.chains import make_search_engine
from icm_fast.errors import InputError
from icm_fast.evaluation.prompt_formats import ASSISTANT_DIALOGUE, HHH_FILE
from icm_fast.experiments.cell_data import CellData
from icm_fast.experiments.definition import DEFINITIONS, experiment_names, read_experiment
from icm_fast.experiments.methods import METHODS
from icm_fast.experiments.predicting import not_applicable
from icm_fast.model.lazy import LazyModel
from icm_fast.tasks.annotators import annotator_labels
from icm_fast.tasks.source import TaskSource

OF_THE_PAPER = ("scaling", "perturbed", "initialization", "consistency", "passes")
FILES = {
    "truthfulqa.jsonl": [
        {"question": f"Q{k}?", "choice": f"C{c}.", "label": c % 2, "consistency_id": k}
        for k in range(20)
        for c in range(4)
    ],
    "gsm8k_verification.jsonl": [
        {"question": f"{k}+1?", "cot": f"Way {c}.", "answer": a, "label": 0, "consistency_id": k}
        for k in range(20)
        for c, a in enumerate("2232")
    ],
    "alpaca_preference.jsonl": [
        {"question": f"Q{k}?", "choice": one, "choice_2": two, "label": y, "consistency_id": k}
        | ({"candidate_label": [k % 2 == 0, True]} if y else {})
        for k in range(20)
        for one, two, y in (("a\nb", f"c{k}", 1), (f"c{k}", "a\nb", 0))
    ],
}


@pytest.fixture
def data(tmp_path):
    for name, rows in FILES.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def suites_of(name):
    return yaml.safe_load((DEFINITIONS / f"{name}.yaml").read_text())["suites"]


def test_every_suite_can_be_read():
    for name in experiment_names():
        for suite in suites_of(name):
            assert read_experiment(name, suite).columns, (name, suite)


def test_main_has_rows_of_presets_by_name():
    named = {"default", "paper", "authors-code"}
    for suite, wanted in (("small", named | {"annealing"}), ("large", named)):
        columns = read_experiment("main", suite).columns
        presets = {column.config(0).preset for column in columns}
        assert presets == wanted
        assert all(c.name.endswith(f", {c.config(0).preset}") for c in columns)


@pytest.mark.parametrize("suite", ["paper", "paper-large"])
@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_suites_of_the_paper_run_its_algorithm_on_its_tasks(name, suite, data):
    experiment = read_experiment(name, suite)
    assert " of the paper" in experiment.source
    assert "preset `paper`" in experiment.note
    assert "Repeats" in experiment.note
    assert "Different from the paper" in experiment.note
    tasks = {column.task for column in experiment.columns}
    with_rules = {"gsm8k-verification", "alpaca-preference"}
    assert tasks == with_rules | (set() if name == "consistency" else {"truthfulqa"})
    for column in experiment.columns:
        config = column.config(0)
        assert config.preset == "paper"
        cell = CellData(column, 0, LazyModel(column.model), data)
        dataset = cell.dataset
        rules = {constraint.rule for constraint in dataset.constraints}
        expected = {"gsm8k-verification": {"exclusive"}, "alpaca-preference": {"asymmetric"}}
        assert rules == (expected.get(column.task, set()) if column.constraints else set())
        if column.task == "alpaca-preference" and column.constraints:
            assert dataset.constraints[0].allowed[0][0]  # both False is no contradiction
        if len(dataset) >= column.n_start or column.start is None:
            asked = make_search_engine(cell.config, dataset).ask()
            assert np.count_nonzero(asked.labels >= 0) == min(8, len(dataset))


def test_suites_of_the_paper_share_their_searches():
    def digests(name, suite="paper"):
        columns = read_experiment(name, suite).columns
        return {c.digest() for c in columns if c.config(0).preset == "paper"}

    passes = digests("passes")
    assert passes < digests("main", "small")
    assert passes < digests("scaling")
    assert passes == digests("perturbed")
    assert len(passes & digests("consistency")) == 2
    assert len(passes & digests("initialization")) == 1


def test_one_annotator_is_a_row_of_alpaca(data):
    source = TaskSource("alpaca-preference", str(data / "alpaca_preference.jsonl"), limit=20)
    dataset, gold = source.load()
    labels = annotator_labels(source, dataset)
    numbers = [int(example.id.rpartition("-")[2]) for example in dataset.examples]
    # The first annotator agrees with gold on every other pair; the turned row has the opposite.
    right = np.array([number // 2 % 2 == 0 for number in numbers])
    assert labels.tolist() == np.where(right, gold, 1 - gold).tolist()
    assert annotator_labels(source, dataset, rater=1).tolist() == gold.tolist()
    with pytest.raises(InputError, match="has 2 annotators, so there is no annotator 2"):
        annotator_labels(source, dataset, rater=2)
    others = TaskSource("truthfulqa", str(data / "truthfulqa.jsonl"), limit=8)
    assert set(annotator_labels(others, others.load_dataset()).tolist()) == {-1}


def test_rows_apply_where_the_data_have_what_they_need(data):
    column = read_experiment("main", "small", only=["Alpaca preference, default"]).columns[0]
    cell = CellData(column, 0, LazyModel("smollm2"), data)
    assert not_applicable(METHODS["crowd"], cell) == ""
    assert HHH_FILE in not_applicable(METHODS["zero-shot-hhh"], cell)
    (data / HHH_FILE).write_text("Human: Hello.\n\nAssistant: Hi.\n\n")
    cell = CellData(column, 0, LazyModel("smollm2"), data)
    assert not_applicable(METHODS["zero-shot-hhh"], cell) == ""
    assert cell.hhh_prompt == "Human: Hello.\n\nAssistant: Hi."
    claims = read_experiment("main", "small", only=["TruthfulQA, default"]).columns[0]
    without = CellData(claims, 0, LazyModel("smollm2"), data)
    assert "single annotators" in not_applicable(METHODS["crowd"], without)


def test_our_dialogue_answers_none_of_the_tasks():
    words = ("true", "false", "positive", "negative", "correct", "right", "better", "review")
    spoken = ASSISTANT_DIALOGUE.partition("Person:")[2].lower()
    assert not [word for word in words if f" {word}" in spoken]
    assert not any(sign in spoken for sign in ("+", "=", "times"))
