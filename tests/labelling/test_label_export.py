"""From the folder of a labelling to files for review and training, on the command line."""

from __future__ import annotations

import csv
import io
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
from label_fakes import rows

import icm_fast
from icm_fast import InputError, LabelConfig
from icm_fast.cli import run
from icm_fast.labelling import export_labelling
from icm_fast.labelling.review import REVIEW_FORMATS, read_corrections
from icm_fast.labelling.stored import packed_decision, read_decision, read_labelling

pytestmark = pytest.mark.usefixtures("fake")

N = 12
CONFIG = LabelConfig(cores=2, core_size=4, chunk_rows=5)
QUESTION = {"model": "fake", "config": CONFIG}
CLASSES = {"text": "review", "labels": ["negative", "positive"], "template": "{review} is"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A labelling of a file that was named by a relative path."""
    monkeypatch.chdir(tmp_path)
    pd.DataFrame(rows(N)).to_csv("a.csv", index=False)
    icm_fast.label("a.csv", output_dir="run", **CLASSES, **QUESTION)
    monkeypatch.chdir("/")
    return tmp_path / "run"


@pytest.mark.parametrize("format", REVIEW_FORMATS)
def test_the_least_certain_rows_are_written(folder, format, capsys, tmp_path):
    assert run(["export", str(folder), "--format", format, "--rows", "5"]) == 0
    assert capsys.readouterr().out.startswith("5 rows written to ")
    (path,) = folder.glob(f"{format}.*")
    output = tmp_path / "out"
    assert run(["export", str(folder), "--format", format, "--rows", "5", "-o", str(output)]) == 0
    assert output.read_bytes() == path.read_bytes()


def test_a_reviewed_file_comes_back(folder, capsys):
    assert run(["export", str(folder), "--format", "cleanlab", "--rows", "3", "-o", "-"]) == 0
    found = capsys.readouterr()
    table = list(csv.DictReader(io.StringIO(found.out)))
    assert "3 rows written to standard output" in found.err
    (folder.parent / "answers.csv").write_text(found.out)
    stored = read_labelling(folder)
    corrections = read_corrections(folder.parent / "answers.csv", stored.task)
    assert corrections == {int(row["row"]): stored.task.labels.index(row["label"]) for row in table}
    confidence = stored.decision.confidence
    assert set(corrections) == set(np.argsort(confidence, kind="stable")[:3].tolist())


@pytest.mark.parametrize("change", ["row", "text", "gone"])
def test_a_table_that_has_changed_is_refused(folder, change, capsys):
    table = folder.parent / "a.csv"
    text = table.read_text()
    if change == "gone":
        table.unlink()
    else:
        table.write_text(text + "12,more\n" if change == "row" else text.replace("part 3", "x"))
    assert run(["export", str(folder), "--format", "argilla"]) == 2
    message = "no file at" if change == "gone" else "a.csv has changed since it was labelled"
    assert message in capsys.readouterr().err


def test_columns_that_nothing_reads_may_change(folder):
    table = folder.parent / "a.csv"
    pd.read_csv(table).assign(n=7, more="x").to_csv(table, index=False)
    assert export_labelling(folder, "argilla", n_rows=2)[1] == 2


def test_a_table_in_memory_is_passed_again(tmp_path):
    frame = pd.DataFrame(rows(N))
    icm_fast.label(frame, output_dir=tmp_path / "run", **CLASSES, **QUESTION)
    with pytest.raises(InputError, match=r"was in memory.*pass it to .*export_labelling"):
        export_labelling(tmp_path / "run", "argilla")
    path, n = export_labelling(tmp_path / "run", "argilla", data=frame)
    assert n == len(path.read_text().splitlines()) == N
    with pytest.raises(InputError, match="data frame has changed"):
        export_labelling(tmp_path / "run", "argilla", data=frame[:-1])


@pytest.mark.parametrize("format", ["trl-preference", "dpo"])
def test_comparisons_become_preferences(tmp_path, format):
    pairs = [{"q": f"why {i}?", "a": f"text {i}", "b": f"dull {i}"} for i in range(N)]
    pairs[3]["b"] = pairs[3]["a"]
    found = icm_fast.label(
        pairs, compare=("a", "b"), text="q", output_dir=tmp_path / "run", **QUESTION
    )
    path, n = export_labelling(tmp_path / "run", format, data=pairs)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [row for row in found if row["a"] != row["b"]]
    assert n == len(lines) == len(kept) == N - 1
    for line, row in zip(lines, kept, strict=True):
        better, worse = row[row["label"]], row["b" if row["label"] == "a" else "a"]
        if format == "dpo":
            assert line["chosen"] == [{"role": "assistant", "content": better}]
            assert line["prompt"] == [{"role": "user", "content": row["q"]}]
        else:
            assert (line["chosen"], line["rejected"]) == (f" {better}", f" {worse}")


def test_wrong_exports_are_one_clear_line(folder, tmp_path, capsys):
    for words, message in (
        ([], "name the format of the export: --format argilla, label-studio"),
        (["--format", "argila"], "not 'argila'; did you mean 'argilla'?"),
        (["--format", "dpo"], "does not compare texts, so it has no preferences"),
        (["--format", "argilla", "--rows", "0"], "0 rows cannot be reviewed"),
        (["--format", "argilla", "--csv-safe"], "leave the others out"),
        (["--format", "argilla", "-o", str(folder / "decision.npz")], "is a file of the labell"),
    ):
        assert run(["export", str(folder), *words]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    (folder / "summary.json").unlink()
    assert run(["export", str(folder), "--format", "argilla"]) == 2
    assert "is not finished" in capsys.readouterr().err
    with pytest.raises(InputError, match="is not the folder of a labelling"):
        export_labelling(tmp_path, "argilla")


def test_a_decision_is_stored_whole_and_the_same_every_time(folder):
    path = folder / "decision.npz"
    found = read_decision(path, N, 2)
    assert packed_decision(found) == path.read_bytes()
    assert found.labels.tolist() == read_labelling(folder).decision.labels.tolist()
    for n_rows, n_labels in ((N + 1, 2), (N, 3)):
        with pytest.raises(InputError, match=r"decision\.npz is damaged or of another labelling"):
            read_decision(path, n_rows, n_labels)


def changed(folder, **arrays):
    path = folder / "decision.npz"
    with np.load(path) as stored:
        content = {name: stored[name] for name in stored.files} | arrays
    with open(path, "wb") as file:
        np.savez(file, **content)
    return path


WRONG = {
    "label of none": {"labels": np.full(N, 2, np.int32)},
    "not a number": {"confidence": np.full(N, np.nan)},
    "objects": {"labels": np.array([{}] * N)},
    "other type": {"labels": np.zeros(N, np.int64)},
    "way of none": {"decided_by": np.full(N, 4, np.int8)},
}


@pytest.mark.parametrize("case", WRONG)
def test_values_that_no_decision_has_are_refused(folder, case):
    path = changed(folder, **WRONG[case])
    with pytest.raises(InputError, match="is damaged or of another labelling"):
        read_decision(path, N, 2)


def test_damaged_archives_are_refused(folder):
    path = folder / "decision.npz"
    content = path.read_bytes()
    for bad in (b"", content[:-30], content[: len(content) // 2], b"x" * 100):
        path.write_bytes(bad)
        with pytest.raises(InputError, match="is damaged or of another labelling"):
            read_decision(path, N, 2)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.npy", b"\0" * 10**6)
    with pytest.raises(InputError, match="is damaged or of another labelling"):
        read_decision(path, N, 2)


def test_damaged_settings_are_refused(folder):
    path = folder / "settings.json"
    settings = json.loads(path.read_bytes())
    for change in ({"template": None}, {"labels": ["one"]}, {"labels": 3}, {"separator": None}):
        path.write_text(json.dumps(settings | {"task": settings["task"] | change}))
        with pytest.raises(InputError, match=r"settings\.json, task: "):
            read_labelling(folder)
