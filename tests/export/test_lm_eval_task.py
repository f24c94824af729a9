import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from lm_eval_cases import CHOICES, finished_run

from icm_fast import evaluate
from icm_fast.cli import run as icm_fast_command
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.evaluation.gold import held_out
from icm_fast.evaluation.many_shot import shown_demonstrations
from icm_fast.export.lm_eval import task_name, write_lm_eval_task
from run_fakes import FakeLoaded, FakeScored


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_train_holds_the_found_labels_in_the_order_that_evaluate_shows(run, tmp_path):
    write_lm_eval_task(run, tmp_path / "out")
    order = shown_demonstrations(run.labels, seed=run.config.seed)
    assert sorted(order) == list(range(8))
    assert list(order) != list(range(8))
    found = rows(tmp_path / "out" / "train.jsonl")
    assert [row["prompt"] for row in found] == [run.dataset.examples[i].prompt for i in order]
    assert [row["label_index"] for row in found] == run.labels[order].tolist()
    assert [row["label"] for row in found] == [
        run.dataset.label_space[y] for y in run.labels[order]
    ]


def test_test_holds_gold_of_examples_that_were_not_searched(run, tmp_path):
    task = write_lm_eval_task(run, tmp_path / "out", n_test=7)
    test, gold = held_out(run.source, run.dataset, 7)
    found = rows(tmp_path / "out" / "test.jsonl")
    assert task.n_test == len(found) == len(test) > 0
    assert [(r["id"], r["prompt"], r["label_index"]) for r in found] == [
        (e.id, e.prompt, y) for e, y in zip(test.examples, gold.tolist(), strict=True)
    ]
    assert not {r["id"] for r in found} & {e.id for e in run.dataset.examples}


def test_definition_names_columns_absolute_paths_and_our_delimiters(run, tmp_path):
    task = write_lm_eval_task(run, tmp_path / "out")
    text = (tmp_path / "out" / "icm_a_run.yaml").read_text()
    definition = yaml.safe_load(text)
    assert task.name == definition["task"] == "icm_a_run"
    assert definition["dataset_path"] == "json"
    assert definition["dataset_kwargs"]["data_files"] == {
        "train": str(tmp_path / "out" / "train.jsonl"),
        "test": str(tmp_path / "out" / "test.jsonl"),
    }
    assert definition["doc_to_text"] == "prompt"
    assert definition["doc_to_target"] == "label_index"
    assert definition["doc_to_choice"] == list(run.dataset.label_space) == [" False", " True"]
    assert definition["target_delimiter"] == ""
    assert definition["fewshot_delimiter"] == run.dataset.separator == "\n\n"
    assert definition["fewshot_config"] == {"sampler": "first_n"}
    assert definition["num_fewshot"] == task.n_shots == 8
    assert sum(definition["metadata"]["demonstrations_by_label"].values()) == 8
    assert text.startswith(f"# {task.command}\n")
    assert f"--include_path {tmp_path / 'out'} --tasks icm_a_run" in task.command


def test_braces_stand_in_the_data_alone(run, tmp_path):
    write_lm_eval_task(run, tmp_path / "out")
    prompts = [
        r["prompt"] for name in ("train", "test") for r in rows(tmp_path / f"out/{name}.jsonl")
    ]
    for choice in CHOICES:
        assert any(choice in prompt for prompt in prompts)
    definition = (tmp_path / "out" / "icm_a_run.yaml").read_text()
    assert "{{" not in definition
    assert "{%" not in definition


def test_a_preamble_is_the_description_of_the_task(run, tmp_path, monkeypatch):
    """Through a column, so that braces in it are left alone."""
    told = replace(run, dataset=replace(run.dataset, preamble="{{ so }} or not?"))
    write_lm_eval_task(told, tmp_path / "out")
    definition = yaml.safe_load((tmp_path / "out" / "icm_a_run.yaml").read_text())
    assert definition["description"] == "{{opening}}"
    for name in ("train", "test"):
        found = {row["opening"] for row in rows(tmp_path / f"out/{name}.jsonl")}
        assert found == {"{{ so }} or not?\n\n"}


def test_same_run_same_bytes(run, tmp_path):
    write_lm_eval_task(run, tmp_path / "out")
    before = contents(tmp_path / "out")
    write_lm_eval_task(run, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert set(before) == {"icm_a_run.yaml", "train.jsonl", "test.jsonl"}


def test_gold_is_in_the_test_file_alone(run, tmp_path):
    write_lm_eval_task(run, tmp_path / "out")
    before = contents(tmp_path / "out")
    swapped = finished_run(tmp_path, swapped=True)
    write_lm_eval_task(swapped, tmp_path / "out")
    after = contents(tmp_path / "out")
    assert {name for name in before if before[name] != after[name]} == {"test.jsonl"}


def test_unlabelled_examples_are_left_out(run, tmp_path):
    labels = run.labels.copy()
    labels[[1, 4]] = -1
    task = write_lm_eval_task(replace(run, labels=labels), tmp_path / "out")
    missing = {run.dataset.examples[i].id for i in (1, 4)}
    found = {row["id"] for row in rows(tmp_path / "out" / "train.jsonl")}
    assert found == {e.id for e in run.dataset.examples} - missing
    assert task.n_shots == 6


def test_shots_are_those_of_a_bounded_evaluation(run, tmp_path):
    task = write_lm_eval_task(run, tmp_path / "out", shots=3)
    bounded = replace(run, config=SearchConfig(max_evaluations=10, context_demonstrations=3))
    write_lm_eval_task(bounded, tmp_path / "bounded")
    asked, default = (tmp_path / f / "train.jsonl" for f in ("out", "bounded"))
    assert task.n_shots == len(rows(asked)) == 3
    assert asked.read_bytes() == default.read_bytes()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("movie-sentiment-default-seed3", "icm_movie_sentiment_default_seed3"),
        ("a, b*.{{c}}", "icm_a_b_c"),
        ("日本", "icm_run"),
    ],
)
def test_names_are_plain_and_prefixed(run, tmp_path, name, expected):
    assert task_name(replace(run, folder=tmp_path / name)) == expected


@pytest.mark.parametrize("seed", [0, 7, 987654321])
@pytest.mark.parametrize("most", [0, 3])
def test_shown_order_is_that_of_the_native_plan(run, seed, most):
    """``many_shot`` plans with other token counts; the order must not depend on them."""
    from icm_fast.plan.leave_one_out import plan_pieces
    from icm_fast.plan.pieces import TokenizedDataset

    labels = np.array([0, 1, -1, 1, 0, 0, 1, 1], np.int32)
    shown = []

    class Planning:
        def __init__(self, model, dataset, config):
            self.dataset, self.config = dataset, config

        def score(self, state, queries):
            n = len(self.dataset)
            sizes = [(7,) * (3 + i * i % 11) for i in range(n)]
            pieces = TokenizedDataset((1,), tuple(sizes), tuple(sizes), ((2,), (3, 4)), 5)
            plan = plan_pieces(pieces, state, ((3,), (-1,)), self.config, queries)
            contexts = [plan.contexts[i].tolist() for i in np.flatnonzero(queries)]
            shown.append([[self.dataset.examples[k].id for k in c] for c in contexts])
            return FakeScored(np.zeros((n, 2), np.float32), 0)

    test, _ = held_out(run.source, run.dataset, 4)
    config = SearchConfig(seed=seed, context_demonstrations=most)
    evaluate.many_shot(
        run.dataset, labels, test, model=FakeLoaded(), config=config, make_scorer=Planning
    )
    order = shown_demonstrations(labels, seed=seed, most=most)
    assert len(order) == (most or 7)
    expected = [f"demonstration:{run.dataset.examples[i].id}" for i in order]
    assert shown[-1] == [expected] * len(test)


# --- input errors ------------------------------------------------------------


def test_unusable_runs_and_folders_are_refused_and_write_nothing(run, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(
        InputError, match=r"shots is 9, but .* has 8 labelled examples; pass 1 to 8"
    ):
        write_lm_eval_task(run, out, shots=9)
    with pytest.raises(InputError, match="labelled no example"):
        write_lm_eval_task(replace(run, labels=np.full(8, -1, np.int32)), out)
    with pytest.raises(InputError, match="does not say which task"):
        write_lm_eval_task(replace(run, source=None), out)
    with pytest.raises(InputError, match=r"'\[' has a special meaning"):
        write_lm_eval_task(run, tmp_path / "a[1]")
    with pytest.raises(InputError, match=r"already contains config\.yaml"):
        write_lm_eval_task(run, run.folder)
    with pytest.raises(InputError, match="cannot write"):
        write_lm_eval_task(run, tmp_path / "data.jsonl" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-run", "data.jsonl"]
    assert not (run.folder / "train.jsonl").exists()


def test_command_line(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export = ["export", "a-run", "--format", "lm-eval"]
    assert icm_fast_command(export) == 0
    assert "8 demonstrations and 12 test examples" in capsys.readouterr().out
    written = tmp_path / "a-run" / "lm-eval"
    assert sorted(contents(written)) == ["icm_a_run.yaml", "test.jsonl", "train.jsonl"]
    assert icm_fast_command([*export, "-o", "out", "--shots", "2", "--test", "4"]) == 0
    out = capsys.readouterr().out
    assert "2 demonstrations and 4 test examples" in out
    assert f"--include_path {tmp_path / 'out'} --tasks icm_a_run" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "lm-eval", "--shots", "9"], ["shots is 9", "pass 1 to 8"]),
        (["--format", "lm-eval", "--shots", "0"], ["shots is 0", "pass 1 to 8"]),
        (["--format", "lm-eval", "--test", "0"], ["number of held-out examples is 0"]),
        (["--format", "csv", "--shots", "2"], ["--format lm-eval"]),
        (["--test", "2"], ["--format lm-eval"]),
        (["--format", "lmeval"], ["'lm-eval'"]),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(run, tmp_path, capsys, arguments, words):
    before = sorted(tmp_path.rglob("*"))
    assert icm_fast_command(["export", str(run.folder), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert sorted(tmp_path.rglob("*")) == before
