"""TensorBoard, Weights & Biases, trackio, MLflow and a file of JSON lines, each as a tracker.

Accounts, keys, servers and projects are the trackers' own: their usual variables and files.
Nothing but the figures of steps and plain settings is sent: no code, no console, no text of data.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from icm_fast.errors import InputError
from icm_fast.files import json_lines, writing
from icm_fast.tracking.step import TrackedRun, Tracker

PROJECT = "icm_fast"
JSONL_FILE = "tracking.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class JsonLines:
    """Appends each step to ``tracking.jsonl`` in the folder of the run."""

    def __init__(self, run: TrackedRun) -> None:
        self._path = _folder(run, "jsonl") / JSONL_FILE
        self.handle = JSONL_FILE

    def log(self, stream: str, number: int, figures: Mapping[str, float]) -> None:
        """Append a line."""
        line = {"stream": stream, "step": number, **figures}
        with writing(self._path), self._path.open("ab") as file:
            file.write(json_lines([line]))

    def close(self, failed: bool) -> None:
        """Nothing is open."""


class TensorBoard:
    """Event files in ``tensorboard/`` of the run's folder: ``tensorboard --logdir runs``."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = _folder(run, "tensorboard") / TENSORBOARD_FOLDER
        self.handle = TENSORBOARD_FOLDER
        self._writer: Any = SummaryWriter(str(folder))
        if run.handle is None:
            self._writer.add_text("settings", f"```\n{_settings_text(run)}\n```", 0)

    def log(self, stream: str, number: int, figures: Mapping[str, float]) -> None:
        """Write scalars."""
        for name, value in figures.items():
            self._writer.add_scalar(f"{stream}/{name}", value, number)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of W&B; without a network with ``WANDB_MODE=offline``."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        # Its record of the machine holds the command line, in which labels stand.
        private = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            silent=True,
            x_disable_meta=True,
            x_save_requirements=False,
        )
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            job_type=run.kind,
            config=dict(run.settings),
            id=run.handle,
            resume="allow" if run.handle else None,
            dir=None if run.folder is None else str(run.folder),
            settings=private,
        )
        self.handle = str(self._run.id)
        self._streams: set[str] = set()

    def log(self, stream: str, number: int, figures: Mapping[str, float]) -> None:
        """Log figures against the step of their stream."""
        if stream not in self._streams:  # W&B's own step is one for all streams
            self._run.define_metric(f"{stream}/*", step_metric=f"{stream}/step")
            self._streams.add(stream)
        line = {f"{stream}/{name}": value for name, value in figures.items()}
        self._run.log({f"{stream}/step": number, **line})

    def close(self, failed: bool) -> None:
        """Send what is left."""
        self._run.finish(exit_code=int(failed))


class Trackio:
    """A run of trackio, in its local database."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._trackio: Any = trackio
        self.handle = run.handle or f"{run.name}-{secrets.token_hex(3)}"
        self._trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.handle,
            config=dict(run.settings),
            resume="allow",
            embed=False,
        )

    def log(self, stream: str, number: int, figures: Mapping[str, float]) -> None:
        """Log figures at a step."""
        self._trackio.log({f"{stream}/{k}": v for k, v in figures.items()}, step=number)

    def close(self, failed: bool) -> None:
        """Write what is left."""
        self._trackio.finish()


class Mlflow:
    """A run of MLflow, at ``MLFLOW_TRACKING_URI`` or where MLflow keeps runs by default."""

    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient

        self._client: Any = MlflowClient()
        if run.handle is not None:
            self.handle = run.handle
            self._client.update_run(self.handle, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        created = self._client.create_run(experiment, run_name=run.name, tags={"kind": run.kind})
        self.handle = str(created.info.run_id)
        for key, value in run.settings.items():
            self._client.log_param(self.handle, key, value)

    def log(self, stream: str, number: int, figures: Mapping[str, float]) -> None:
        """Log figures at a step, in one request."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(f"{stream}/{name}", v, now, number) for name, v in figures.items()]
        self._client.log_batch(self.handle, metrics=metrics)

    def close(self, failed: bool) -> None:
        """Mark the run as finished or failed."""
        self._client.set_terminated(self.handle, "FAILED" if failed else "FINISHED")


TRACKERS: Mapping[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
    "mlflow": Mlflow,
    "jsonl": JsonLines,
}
"""What opens the run of a tracker, by the name that users give."""


def require_package(name: str) -> None:
    """Raise InputError unless the package of a tracker is installed."""
    if name != "jsonl" and importlib.util.find_spec(name) is None:
        raise InputError(f"--report-to {name} needs {name}; run pip install 'icm-fast[{name}]'")


def _folder(run: TrackedRun, name: str) -> Path:
    if run.folder is None:
        raise InputError(f"{name} writes into the folder of the run; name one (output_dir)")
    run.folder.mkdir(parents=True, exist_ok=True)
    return run.folder


def _settings_text(run: TrackedRun) -> str:
    return json.dumps(dict(run.settings), indent=2, ensure_ascii=True)
