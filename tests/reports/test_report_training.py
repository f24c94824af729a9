"""The report of a training: a figure for each number, training and held-out ones together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_cases import read_page

from icm_fast.errors import InputError
from icm_fast.reports import Request, read_report, render_page
from icm_fast.reports.content import Lines
from icm_fast.reports.trainings import RECORDS
from icm_fast.training.step_log import StepLog
from run_fakes import PACKAGE


def write_training(folder: Path, record: dict | None = None, n: int = 50) -> Path:
    folder.mkdir()
    with StepLog(folder, 0) as log:
        for step in range(1, n + 1):
            line = {"step": step, "loss": 2.0 / step, "learning_rate": 1e-4}
            log.write(line | ({"grad_norm": float("inf")} if step == 3 else {"grad_norm": 1.0}))
            if step % 10 == 0:
                log.write({"step": step, "eval_loss": 1.0 + 1 / step})
    if record is not None:
        (folder / "tuning.json").write_text(json.dumps(record))
    return folder


FINISHED = {
    "identity": {
        "model_fingerprint": "abc",
        "config": {"learning_rate": 0.0001, "name": "<script>alert(1)</script>"},
        "torch_version": "2.13",
    },
    "losses": [1.0],
    "seconds": 75.0,
    "best_step": 40,
    "best_loss": 1.025,
}


def test_each_number_has_a_figure_with_both_kinds_of_examples(tmp_path):
    report = read_report(Request((write_training(tmp_path / "t", FINISHED),)))
    figures = {f.title: f for f in report.figures if isinstance(f, Lines)}
    assert list(figures) == ["Loss", "Learning rate", "Norm of the gradients"]
    training, held_out = figures["Loss"].series
    assert training.points[1] == (2.0, 1.0)
    assert held_out.points == tuple((float(k), 1.0 + 1 / k) for k in range(10, 51, 10))
    assert len(figures["Norm of the gradients"].series[0].points) == 49
    tiles = {tile.name: tile.value for tile in report.tiles}
    assert tiles == {
        **{"steps": "50", "loss": "0.042", "best held-out loss": "1.025", "time": "1 min 15 s"}
    }
    assert "It is finished." in report.lead
    page = read_page(render_page(report, "t"))
    assert "<script>alert(1)</script>" in page.text
    assert page.data == {"rows": None}
    assert "Concerns" not in page.text


def test_a_training_that_runs_or_has_no_record_is_shown_as_far_as_it_is(tmp_path):
    report = read_report(Request((write_training(tmp_path / "t", n=1),)))
    assert "It is not finished" in report.lead
    assert render_page(report, "t")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "steps.jsonl").write_text("")
    assert "recorded no steps" in render_page(read_report(Request((empty,))), "t")


def test_the_records_are_those_that_trainings_write():
    adapters, reward = (
        (PACKAGE / name).read_text() for name in ("model/adapters.py", "training/reward/model.py")
    )
    assert f'TUNING_FILE = "{RECORDS[0]}"' in adapters
    assert f'REWARD_FILE = "{RECORDS[1]}"' in reward


@pytest.mark.parametrize("line", ['{"step": "one"}', "[1]", '{"step": 1, "loss": NaN}'])
def test_damaged_steps_are_refused(tmp_path, line):
    (tmp_path / "steps.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=r"steps\.jsonl, line 1"):
        read_report(Request((tmp_path,)))


def test_a_training_has_no_gold(tmp_path):
    folder = write_training(tmp_path / "t")
    with pytest.raises(InputError, match="leave out --gold"):
        read_report(Request((folder,), gold="task"))
