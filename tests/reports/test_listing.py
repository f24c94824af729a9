"""``icm-fast runs ls``: every folder of a run, its state, and nothing of gold."""

from __future__ import annotations

import json
import os

import pytest
from report_cases import write_labelling
from test_report_training import FINISHED, write_training

from icm_fast import SearchConfig, search
from icm_fast.cli import run
from icm_fast.errors import InputError
from icm_fast.files import lock_folder
from icm_fast.reports.listing import list_runs
from run_fakes import FakeScorer, toy_dataset

CONFIG = SearchConfig(max_evaluations=3, n_initial=2)


def searched(folder):
    search(toy_dataset(6), model="fake", config=CONFIG, output_dir=folder, scorer=FakeScorer(6))
    return folder


@pytest.fixture
def runs(tmp_path):
    """A search with a training inside it, an interrupted one, a labelling, and other files."""
    folder = tmp_path / "runs"
    searched(folder / "b" / "search")
    write_training(folder / "b" / "search" / "tuning", FINISHED)
    (searched(folder / "a") / "summary.json").unlink()
    (folder / "table").mkdir()
    write_labelling(folder / "table", [f"text {k}" for k in range(6)])
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden").mkdir()
    return folder


def test_kinds_states_and_costs(runs):
    found = {str(r.folder.relative_to(runs)): r for r in list_runs(runs)}
    assert {name: (r.kind, r.state) for name, r in found.items() if r.kind != "labelling"} == {
        "a": ("search", "interrupted"),
        "b/search": ("search", "finished"),
        "b/search/tuning": ("training", "finished"),
    }
    (labelling,) = [r for r in found.values() if r.kind == "labelling"]
    assert (labelling.state, labelling.n_examples) == ("finished", 6)
    one = found["b/search"]
    summary = json.loads((runs / "b/search/summary.json").read_text())
    assert one.n_examples == 6
    assert one.n_tokens == summary["n_tokens_forwarded"]
    assert one.model == "fake"
    assert found["a"].n_tokens is None
    assert found["b/search/tuning"].seconds == 75.0


def test_a_run_that_is_locked_is_running_and_stays_locked(runs):
    lock = lock_folder(runs / "a")
    try:
        assert list_runs(runs / "a")[0].state == "running"
        with pytest.raises(InputError, match="being written by another process"):
            lock_folder(runs / "a")
    finally:
        os.close(lock)
    assert list_runs(runs / "a")[0].state == "interrupted"


def test_a_damaged_folder_is_one_line_and_hides_no_other(runs, capsys):
    (runs / "b/search/summary.json").write_text("{")
    states = {r.kind: r.state for r in list_runs(runs) if r.folder.name != "a"}
    assert states["search"] == "damaged"
    assert states["training"] == "finished"
    assert run(["runs", "ls", str(runs)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 5
    assert "summary.json" in err


def test_links_are_not_followed(runs, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b").symlink_to(runs / "b")
    assert list_runs(tmp_path / "elsewhere") == []


def test_the_table_of_runs(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs.parent)
    assert run(["runs", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    columns = ["folder", "kind", "state", "verdict", "examples", "tokens", "time", "model"]
    assert lines[0].split() == columns
    assert lines[1].split() == ["runs/a", "search", "interrupted", "-", "6", "-", "-", "fake"]
    (runs.parent / "empty").mkdir()
    assert run(["runs", "ls", "empty"]) == 0
    assert capsys.readouterr().out == "no runs in empty\n"
    assert run(["runs", "ls", "nowhere"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
