import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.evaluation.report import markdown_table, run_report
from icm_fast.export.tables import export_rows, export_run, format_of
from icm_fast.runs.finished import read_run
from run_fakes import FakeScorer, run_bytes, toy_dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    icm_fast.search(
        toy_dataset(8),
        model="fake",
        config=SearchConfig(max_evaluations=10),
        output_dir=folder,
        scorer=FakeScorer(8),
    )
    return read_run(folder)


def test_run_is_read_back(run):
    again = icm_fast.search(
        toy_dataset(8), model="fake", config=run.config, output_dir=run.folder, scorer=FakeScorer(8)
    )
    assert np.array_equal(run.labels, again.labels)
    assert np.array_equal(run.scores, again.scores)
    assert run.model == "fake"
    assert run.source is None
    assert run.dataset.examples == toy_dataset(8).examples
    assert run.dataset.label_space == toy_dataset(8).label_space


def test_jsonl(run, tmp_path):
    assert export_run(run, "jsonl", tmp_path / "a.jsonl").n_rows == 8
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert rows == export_rows(run)
    assert list(rows[0]) == ["id", "prompt", "label", "confidence", "margin", "logprobs"]
    assert rows[0]["prompt"] == "Question 0?\nAnswer:"


def test_csv(run, tmp_path):
    export_run(run, "csv", tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    for row, expected in zip(rows, export_rows(run), strict=True):
        assert row["prompt"] == expected["prompt"]
        assert row["label"] == (expected["label"] or "")
        assert [float(row["logprob:no"]), float(row["logprob:yes"])] == expected["logprobs"]


def test_parquet(run, tmp_path):
    export_run(run, "parquet", tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column("id").to_pylist() == [f"e{i}" for i in range(8)]
    stored = np.array(table.column("logprobs").to_pylist(), np.float32)
    assert np.array_equal(stored, run.scores)


def test_unknown_format_suggests_the_nearest(run, tmp_path):
    with pytest.raises(InputError, match="unknown format 'parque'; did you mean 'parquet'"):
        export_run(run, "parque", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_format_is_asked_for_or_told_by_the_suffix(tmp_path):
    assert format_of(tmp_path / "a.csv", None) == "csv"
    assert format_of(tmp_path / "a.csv", "jsonl") == "jsonl"
    assert format_of(None, None) == "jsonl"


def test_unwritable_target(run, tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        export_run(run, "csv", tmp_path / "absent" / "a.csv")


def test_report_names_labels_moves_and_doubtful_examples(run):
    text = run_report(run)
    assert "# toy: 8 examples labelled by fake" in text
    assert "| init" in text
    assert f"utility {run.summary['utility']:.4f}" in text
    given = run.confidence[run.labels >= 0]
    assert f"{given.min():.2f}" in text


def test_markdown_table_is_aligned():
    assert markdown_table(("a", "bb"), [("xyz", 1)]).splitlines() == [
        "| a   | bb |",
        "| --- | -- |",
        "| xyz | 1  |",
    ]


def test_unfinished_and_absent_runs_say_how_to_go_on(tmp_path, run):
    with pytest.raises(InputError, match=r"cannot read .*name the folder of a run"):
        read_run(tmp_path)
    (tmp_path / "config.yaml").write_bytes((run.folder / "config.yaml").read_bytes())
    with pytest.raises(InputError, match=r"is not finished .*run the search again"):
        read_run(tmp_path)
    (tmp_path / "summary.json").write_bytes((run.folder / "summary.json").read_bytes())
    with pytest.raises(InputError, match=r"examples\.jsonl: No such file .*run the search again"):
        read_run(tmp_path)
    (tmp_path / "examples.jsonl").write_bytes((run.folder / "examples.jsonl").read_bytes())
    (tmp_path / "labels.jsonl").write_text("{broken\n")
    with pytest.raises(InputError, match=r"labels\.jsonl, line 1: damaged, not JSON"):
        read_run(tmp_path)
    (tmp_path / "labels.jsonl").write_bytes((run.folder / "labels.jsonl").read_bytes())
    (tmp_path / "examples.jsonl").write_text("")
    with pytest.raises(InputError, match=r"0 examples, config\.yaml says 8; run the search again"):
        read_run(tmp_path)


@pytest.mark.parametrize("name", ["labels.jsonl", "config.yaml", "evaluations.bin", "summary.json"])
def test_the_files_of_the_run_are_not_overwritten(name, tmp_path):
    folder = tmp_path / "run"
    config = SearchConfig(max_evaluations=4)
    icm_fast.search(
        toy_dataset(6), model="x", config=config, scorer=FakeScorer(6), output_dir=folder
    )
    before = run_bytes(folder)
    with pytest.raises(InputError, match=f"{name} is a file of the run"):
        export_run(read_run(folder), "jsonl", folder / ".." / "run" / name)
    assert run_bytes(folder) == before
