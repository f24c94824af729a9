"""Each tracker, read back with its own reader: the same numbers as in the file of JSON lines."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from icm_fast import SearchConfig, search
from icm_fast.model.telemetry import without_telemetry
from icm_fast.tracking import Step, Tracking, tracked
from run_fakes import FakeScorer, toy_dataset

Numbers = dict[tuple[str, int], float]
"""Value by ``stream/figure`` and step."""

CONFIG = SearchConfig(preset="paper", n_initial=2, max_iterations=12)


def read_tensorboard(folder: Path) -> Numbers:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {
        (tag, event.step): event.value
        for tag in found.Tags()["scalars"]
        for event in found.Scalars(tag)
    }


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a file of W&B: a log of LevelDB, in blocks of 32 KiB, after 7 bytes."""
    record, at = b"", 7
    while at + 7 <= len(content):
        if (left := -at % 32768) < 7 and left:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole one, or the last part of one
            yield record
            record = b""


def read_wandb(folder: Path) -> Numbers:
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # waits until files are whole
    numbers: Numbers = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in wandb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            line = {
                item.key or item.nested_key[0]: json.loads(item.value_json)
                for item in record.history.item
            }
            for name, value in line.items():
                stream, slash, figure = name.partition("/")
                if slash and figure != "step":
                    key = (name, line[f"{stream}/step"])
                    assert key not in numbers
                    numbers[key] = value
    return numbers


def read_mlflow(folder: Path) -> Numbers:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("icm_fast")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["alpha"] == "50.0"
    numbers: Numbers = {}
    for name in found.data.metrics:
        for metric in client.get_metric_history(found.info.run_id, name):
            assert (name, metric.step) not in numbers
            numbers[name, metric.step] = metric.value
    return numbers


def read_trackio(folder: Path) -> Numbers:
    from trackio.utils import TRACKIO_DIR  # read once for each process

    handle = json.loads((folder / "tracking.json").read_text())["trackio"]["handle"]
    with sqlite3.connect(Path(TRACKIO_DIR) / "icm_fast.db") as database:
        query = "SELECT step, metrics FROM metrics WHERE run_name = ?"
        rows = database.execute(query, (handle,)).fetchall()
    numbers: Numbers = {}
    for step, text in rows:
        for name, value in json.loads(text).items():
            assert (name, step) not in numbers
            numbers[name, step] = value
    return numbers


READERS: dict[str, tuple[str, Callable[[Path], Numbers]]] = {
    "tensorboard": ("tensorboard", read_tensorboard),
    "wandb": ("wandb", read_wandb),
    "mlflow": ("mlflow", read_mlflow),
    "trackio": ("trackio", read_trackio),
}


@pytest.fixture(autouse=True)
def local(tmp_path, monkeypatch):
    """Trackers write below this folder, and reach no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


def written(folder: Path) -> Numbers:
    lines = [json.loads(line) for line in (folder / "tracking.jsonl").read_text().splitlines()]
    return {
        (f"{line['stream']}/{name}", line["step"]): value
        for line in lines
        for name, value in line.items()
        if name not in ("stream", "step")
    }


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")  # of foreign packages
def test_a_tracker_receives_every_number_once(name, tmp_path):
    package, read = READERS[name]
    pytest.importorskip(package)

    class Stop:
        left = 5

        def __call__(self, step: Step) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    folder = tmp_path / "run"
    options = {"model": "fake", "config": CONFIG, "output_dir": folder}
    with pytest.raises(KeyboardInterrupt):
        search(
            toy_dataset(8), scorer=FakeScorer(8), track=Tracking([name, "jsonl"], Stop()), **options
        )
    search(toy_dataset(8), scorer=FakeScorer(8), track=Tracking([name, "jsonl"]), **options)
    expected = written(folder)
    assert len(expected) > 20
    found = read(folder)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert math.isclose(found[key], value, rel_tol=1e-6, abs_tol=1e-6), key  # float32


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_a_training_that_switches_trackers_off_still_reports(name, tmp_path, capsys):
    package, read = READERS[name]
    pytest.importorskip(package)
    folder = tmp_path / "run"
    settings = {"alpha": 50.0, "labels": ("yes", "no"), "text": None}
    with (
        tracked(Tracking([name]), folder, "sft", settings, pytest.fail) as tracking,
        without_telemetry(),
    ):
        quiet = dict(os.environ)
        tracking.report(Step("train", 1, {"loss": 0.5}))
        tracking.report(Step("eval", 1, {"loss": 0.25}))
        tracking.report(Step("train", 2, {"loss": 0.125}))
        assert os.environ["WANDB_MODE"] == quiet["WANDB_MODE"] == "disabled"
    assert read(folder) == {
        ("train/loss", 1): 0.5,
        ("eval/loss", 1): 0.25,
        ("train/loss", 2): 0.125,
    }
    assert capsys.readouterr().out == ""
