"""Steps for callbacks and trackers: each once, in figures alone, whatever is interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icm_fast import InputError, SearchConfig, search
from icm_fast.cli import run
from icm_fast.tracking import TRACKERS, Step, Tracking, tracked
from icm_fast.tracking.run import plain
from run_fakes import FakeScorer, install_fake_model, run_bytes, toy_dataset, write_claims

CONFIG = SearchConfig(preset="paper", n_initial=2, max_iterations=40)


def searched(folder: Path | None, track=None, n: int = 8):
    return search(
        toy_dataset(n),
        model="fake",
        config=CONFIG,
        output_dir=folder,
        scorer=FakeScorer(n),
        track=track,
    )


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "tracking.jsonl").read_text().splitlines()]


class Interrupt:
    """Raises at the k-th step."""

    def __init__(self, k: int) -> None:
        self.left = k

    def __call__(self, step: Step) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_a_callback_hears_of_every_step(tmp_path):
    heard: list[Step] = []
    found = searched(tmp_path / "a", heard.append)
    assert [step.number for step in heard] == list(range(1, len(heard) + 1))
    assert {step.stream for step in heard} == {"search"}
    assert heard[-1].figures["evaluations"] == found.n_evaluations
    assert heard[-1].figures["tokens"] == found.n_tokens_forwarded
    assert heard[-1].figures["labelled"] == sum(found.labels >= 0)
    assert not any(step.replayed for step in heard)
    again: list[Step] = []
    searched(tmp_path / "a", again.append)
    assert all(step.replayed for step in again)
    utilities = [step.figures["utility"] for step in heard]
    assert [step.figures["utility"] for step in again] == utilities


def test_tracking_changes_nothing_of_a_run(tmp_path):
    searched(tmp_path / "a")
    searched(tmp_path / "b", Tracking(["jsonl"]))
    tracked_run = run_bytes(tmp_path / "b")
    assert {"tracking.json", "tracking.jsonl"} <= set(tracked_run)
    assert {k: v for k, v in tracked_run.items() if "tracking" not in k} == run_bytes(
        tmp_path / "a"
    )


@pytest.mark.parametrize("at", [1, 2, 5, 9])
def test_a_resumed_search_reports_each_step_once(tmp_path, at):
    searched(tmp_path / "whole", Tracking(["jsonl"]))
    whole = lines(tmp_path / "whole")
    assert len(whole) >= 9
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "cut", Tracking(["jsonl"], on_step=Interrupt(at)))
    searched(tmp_path / "cut", Tracking(["jsonl"]))
    cut = lines(tmp_path / "cut")
    assert [line["step"] for line in cut] == [line["step"] for line in whole]
    # The step that was scored and not reported is replayed, when nobody counts its cost.
    shared = [
        {k: v for k, v in line.items() if k in other}
        for line, other in zip(whole, cut, strict=True)
    ]
    assert shared == cut
    searched(tmp_path / "cut", Tracking(["jsonl"]))
    assert lines(tmp_path / "cut") == cut


def test_a_tracker_that_comes_later_receives_all_steps(tmp_path):
    searched(tmp_path / "a")
    searched(tmp_path / "a", Tracking(["jsonl"]))
    assert [line["step"] for line in lines(tmp_path / "a")][:3] == [1, 2, 3]


def test_only_plain_settings_are_reported():
    settings = {
        "alpha": 50.0,
        "model": "http://me:secret@host:80",
        "moves": ["grow"],
        "fixed_labels": [0, 1],
        "none": None,
        "int8": False,
        "long": "x" * 1000,
        "odd": "a\x1b\u202eb",
    }
    kept = plain(settings)
    assert set(kept) == {"alpha", "model", "int8", "long", "odd"}
    assert "secret" not in kept["model"]
    assert len(kept["long"]) == 250
    assert kept["odd"] == "a\\x1b\\u202eb"


def test_no_text_and_no_label_is_reported(tmp_path):
    seen: list[Step] = []
    searched(tmp_path / "a", Tracking(["jsonl"], on_step=seen.append))
    told = (tmp_path / "a" / "tracking.jsonl").read_text()
    assert "Question" not in told
    assert "yes" not in told
    assert all(isinstance(v, int | float) for step in seen for v in step.figures.values())


class Breaking:
    """A tracker whose server goes away at its third step."""

    def __init__(self, run) -> None:
        self.handle = "here"
        self.received = []

    def log(self, stream, number, figures):
        if number == 3:
            raise ConnectionError("https://key:secret@host is\naway")
        self.received.append(number)

    def close(self, failed):
        raise ConnectionError("still away")


class Unusable:
    def __init__(self, run) -> None:
        print("noise")
        raise RuntimeError("no account")


def test_a_tracker_that_fails_ends_no_search(tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setitem(TRACKERS, "jsonl", lambda run: opened.append(Breaking(run)) or opened[-1])
    warned = []
    with tracked(Tracking(["jsonl"]), tmp_path, "search", {}, warned.append) as tracking:
        for k in range(1, 6):
            tracking.report(Step("search", k, {"utility": float(k), "bad": float("nan")}))
    assert opened[0].received == [1, 2]
    assert len(warned) == 2
    assert "jsonl failed and receives nothing more: ConnectionError" in warned[0]
    assert "secret" not in warned[0]


def test_a_tracker_that_cannot_be_opened_is_one_clear_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(TRACKERS, "jsonl", Unusable)
    with pytest.raises(InputError, match="cannot report to jsonl: RuntimeError: no account"):
        searched(tmp_path / "a", Tracking(["jsonl"]))
    out, err = capsys.readouterr()
    assert (out, err) == ("", "noise\n")  # stdout may be JSON for a program


@pytest.mark.parametrize(
    ("report_to", "text"),
    [
        (["tensorbord"], "did you mean 'tensorboard'"),
        ("jsonl", "must be a list"),
    ],
)
def test_unknown_trackers_are_refused(report_to, text):
    with pytest.raises(InputError, match=text):
        Tracking(report_to)


def test_a_missing_package_is_named_with_its_fix(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs wandb; run pip install 'icm-fast\[wandb\]'"):
        Tracking(["wandb"])
    assert Tracking(["jsonl", "jsonl"]).report_to == ("jsonl",)


def test_files_need_a_folder():
    with pytest.raises(InputError, match="jsonl writes into the folder of the run"):
        searched(None, Tracking(["jsonl"]))


def test_damaged_positions_are_reported(tmp_path):
    searched(tmp_path / "a", Tracking(["jsonl"]))
    (tmp_path / "a" / "tracking.json").write_text('{"jsonl": {"handle": null, "steps": {"a": 1}}}')
    with pytest.raises(InputError, match=r"tracking\.json.*delete"):
        searched(tmp_path / "a", Tracking(["jsonl"]))


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    install_fake_model(monkeypatch)
    write_claims(tmp_path / "data.jsonl")
    words = ["search", "truthfulqa", "data.jsonl", "--model", "fake", "--limit", "8", "-o", "a"]
    assert run([*words, "--set", "max_evaluations=4", "--report-to", "jsonl"]) == 0
    assert len(lines(tmp_path / "a")) >= 4
    assert run([*words, "--report-to", "wanbd"]) == 2
    assert "did you mean 'wandb'" in capsys.readouterr().err
