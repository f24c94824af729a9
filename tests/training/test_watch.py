"""Trainings report the figures of their steps.jsonl, each step once, and take callbacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import TrainerCallback

from icm_fast import InputError
from icm_fast.tracking import Tracking
from icm_fast.training.sft import TuningConfig, fine_tune
from tiny_models import mixed_labels, one_thread, reviews, tiny_loaded  # noqa: F401 - in force

TUNING = TuningConfig(epochs=2, batch_size=2, dtype="float32", save_steps=2, eval_fraction=0.3)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "tracking.jsonl").read_text().splitlines()]


class Watcher(TrainerCallback):
    """Counts the steps of a trainer, and interrupts it after one of them."""

    def __init__(self, stop: int | None = None) -> None:
        self.steps: list[int] = []
        self.stop = stop

    def on_step_end(self, args, state, control, **_):
        self.steps.append(state.global_step)
        if state.global_step == self.stop:
            raise KeyboardInterrupt


def tuned(base, folder, **more):
    dataset = reviews()
    return fine_tune(
        dataset, mixed_labels(dataset), model=base, config=TUNING, output_dir=folder, **more
    )


def test_a_training_reports_its_steps_and_takes_callbacks(tmp_path):
    base = tiny_loaded("llama")
    plain = tuned(base, tmp_path / "plain")
    with pytest.raises(KeyboardInterrupt):
        tuned(base, tmp_path / "a", track=Tracking(["jsonl"]), callbacks=[Watcher(3)])
    watcher, heard = Watcher(), []
    found = tuned(
        base, tmp_path / "a", track=Tracking(["jsonl"], heard.append), callbacks=[watcher]
    )
    assert found.losses == plain.losses
    assert found.model.fingerprint == plain.model.fingerprint
    assert watcher.steps == list(range(3, len(found.losses) + 1))
    stored = [json.loads(line) for line in (tmp_path / "a/steps.jsonl").read_text().splitlines()]
    told = lines(tmp_path / "a")
    assert {line["stream"] for line in told} == {"train", "eval"}
    for prefix, stream in (("", "train"), ("eval_", "eval")):
        expected = [line for line in stored if f"{prefix}loss" in line]
        own = [line for line in told if line["stream"] == stream]
        assert [line["step"] for line in own] == [line["step"] for line in expected]
        assert [line["loss"] for line in own] == [line[f"{prefix}loss"] for line in expected]
    assert [s.number for s in heard if s.stream == "train"] == watcher.steps


def test_only_callbacks_of_transformers_are_taken(tmp_path):
    with pytest.raises(InputError, match=r"callbacks take objects of transformers\.Trainer"):
        tuned(tiny_loaded("llama"), None, callbacks=[print])
