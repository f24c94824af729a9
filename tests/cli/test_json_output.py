"""``--json``: every command that reports prints its result as JSON, and nothing else on stdout."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from test_help import COMMANDS

from icm_fast.cli import run
from icm_fast.cli.settings import say_json
from run_fakes import install_fake_model, write_claims

REPORTING = {
    *("search", "label", "demo", "doctor", "report", "runs ls"),
    *("evaluate run", "evaluate reward", "evaluate policy"),
    *("train sft", "train texts", "train iterative", "train dpo", "train reward", "train rl"),
    *("experiment", "assistant", "version"),
}
"""What prints results: of data, models, runs or the installation."""

OTHERS = {"review", "export", "merge", "push", "tune-kernels", "config"}
"""What writes files, talks to a browser or a device, or prints text that is JSON already."""

SEARCH = [
    *("search", "truthfulqa", "data.jsonl", "--model", "fake", "--limit", "8", "-o", "runs/a"),
    *("--set", "max_evaluations=4", "--set", "n_initial=2"),
]


@pytest.fixture
def claims(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    install_fake_model(monkeypatch)
    write_claims(tmp_path / "data.jsonl")
    return tmp_path


def told(capsys, *arguments: str) -> object:
    capsys.readouterr()
    assert run(arguments) == 0
    return json.loads(capsys.readouterr().out)


def test_exactly_the_commands_that_report_have_json():
    leaves = {
        " ".join(words): command
        for words, command in COMMANDS.items()
        if words and not getattr(command, "commands", None)
    }
    having = {
        name
        for name, command in leaves.items()
        if any("--json" in parameter.opts for parameter in command.params)
    }
    assert having == REPORTING
    assert set(leaves) - having == OTHERS


def test_a_search_and_its_reports(claims, capsys):
    summary = told(capsys, *SEARCH, "--json")
    assert summary["folder"] == "runs/a"
    stored = json.loads((claims / "runs/a/summary.json").read_text())
    assert {k: v for k, v in summary.items() if k != "folder"} == stored
    page = told(capsys, "report", "runs/a", "--json", "--gold", "task")
    assert page["kind"] == "search"
    types = {block["type"] for section in page["sections"] for block in section["blocks"]}
    assert {"table", "rows", "lines"} <= types
    (rows,) = [b for s in page["sections"] for b in s["blocks"] if b["type"] == "rows"]
    assert rows["n_total"] == len(rows["texts"]) == 8
    listed = told(capsys, "runs", "ls", "--json")
    assert [(r["folder"], r["state"]) for r in listed["runs"]] == [("runs/a", "finished")]
    assert listed["runs"][0]["n_tokens"] == stored["n_tokens_forwarded"]


@pytest.mark.parametrize(
    "more", [["-o", "x.html"], ["--format", "html"], ["--figures", "f"]], ids=lambda m: m[0]
)
def test_a_report_in_json_has_no_file(claims, capsys, more):
    assert run(["report", "runs/a", "--json", *more]) == 2
    assert "leave" in capsys.readouterr().err


def test_doctor_versions_and_experiments(claims, capsys):
    findings = told(
        capsys, "doctor", "truthfulqa", "data.jsonl", "--model", "fake", "--limit", "8", "--json"
    )
    assert {"check", "state", "detail", "fields"} == set(findings["findings"][0])
    assert told(capsys, "version", "--json")["icm-fast"]
    assert "main" in told(capsys, "experiment", "--json")


def test_what_json_has_not(capsys):
    hidden = "a\u202eb\x1b"
    say_json(
        {
            "nan": math.nan,
            "infinite": [np.float32("inf")],
            "path": Path("a") / "b",
            "set": frozenset((2, 1)),
            "array": np.arange(2),
            "text": hidden,
        }
    )
    out = capsys.readouterr().out
    assert "\u202e" not in out
    assert json.loads(out) == {
        **{"nan": None, "infinite": [None], "path": "a/b", "set": [1, 2], "array": [0, 1]},
        "text": hidden,
    }
