"""Trackers of an experiment: each step of each cell once, whatever is interrupted."""

from __future__ import annotations

import json

import pytest

from icm_fast.cli import run
from icm_fast.experiments.definition import read_experiment
from icm_fast.experiments.run import run_experiment
from icm_fast.tracking import Step, Tracking
from tiny_models import one_thread  # noqa: F401 - in force by its import


def received(output, name="tiny-small"):
    """Stream, number and what does not depend on time of each step, in their order."""
    lines = (output / f"{name}-tracking" / "tracking.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    return [(s["stream"], s["step"], s.get("loss"), s.get("utility")) for s in steps]


def test_each_step_of_each_cell_arrives_once(definition, tmp_path, tiny_folder):
    common = {"task": "larger-than", "model": str(tiny_folder), "n": 6, "n_test": 4}
    common |= {"settings": {"dtype": "float32", "max_evaluations": 3}}
    common |= {"tuning": {"epochs": 1, "dtype": "float32", "save_steps": 1}}
    columns = [
        {**common, "name": "at once", "methods": ["icm-tuned"]},
        {**common, "name": "by four", "batch_size": 4, "methods": ["icm"]},
    ]
    suites = {"small": {"seeds": [0, 1], "columns": columns}}
    experiment = read_experiment(str(definition(suites=suites)), "small")

    def work(name: str, track: Tracking) -> None:
        run_experiment(experiment, output=tmp_path / name, command=("x",), track=track)

    heard: list[Step] = []
    work("whole", Tracking(["jsonl"], on_step=heard.append))
    whole = received(tmp_path / "whole")
    assert [(step.stream, step.number) for step in heard] == [line[:2] for line in whole]
    once, by_four = sorted(path.name for path in (tmp_path / "whole" / "cells").iterdir())
    parts = {
        f"{once}/seed-{seed}/{part}" for seed in (0, 1) for part in ("search", "icm-tuned/train")
    } | {
        f"{by_four}/seed-{seed}/batch-{batch}/{part}"
        for seed in (0, 1)
        for batch in (1, 2)
        for part in ("search", "train")
    }
    assert {stream for stream, *_ in whole} == parts

    trained = [line[:2] for line in whole if line[0].endswith("train")]
    for target in (trained[0], trained[-1]):

        def interrupt(step: Step, target: tuple[str, int] = target) -> None:
            if (step.stream, step.number) == target:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            work("cut", Tracking(["jsonl"], on_step=interrupt))
    work("cut", Tracking(["jsonl"]))
    cut = received(tmp_path / "cut")
    assert len({line[:2] for line in cut}) == len(cut)
    assert sorted(cut, key=str) == sorted(whole, key=str)


def test_the_demonstration_and_others_take_trackers(definition, tmp_path, capsys):
    for command in (
        ["demo"],
        ["assistant"],
        ["assistant", "--seeds", "0,1"],
        ["experiment", "main"],
    ):
        assert run([*command, "--report-to", "tensorbord"]) == 2
        assert "did you mean 'tensorboard'" in capsys.readouterr().err
    words = ["experiment", str(definition(methods=["icm"])), "--seed", "0", "--report-to", "jsonl"]
    assert run([*words, "-o", str(tmp_path / "out")]) == 0
    found = received(tmp_path / "out", "tiny-small-seed-0")
    assert any(stream.endswith("/seed-0/search") for stream, *_ in found)
