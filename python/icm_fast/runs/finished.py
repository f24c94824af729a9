"""Reading the folder of a finished run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icm_fast.config import REMOVED_SETTINGS, SearchConfig
from icm_fast.errors import InputError
from icm_fast.runs.config import IDENTITY, read_config
from icm_fast.runs.labels import RUN_AGAIN, read_lines
from icm_fast.runs.store import CONFIG_FILE, EVENTS_FILE, EXAMPLES_FILE, LABELS_FILE, read_summary
from icm_fast.tasks.source import TaskSource
from icm_fast.types import Dataset, Example, IntArray, LabelSpace, ScoreArray


@dataclass(frozen=True, slots=True, eq=False)
class FinishedRun:
    """Everything that a run folder holds, without gold.

    Attributes:
        folder: The run folder.
        model: The model as the user named it.
        config: Settings of the search.
        source: Origin of the data; None for a data set passed in Python.
        dataset: The examples, without their constraints.
        labels: ``[n]`` int32, -1 where unlabelled.
        scores: ``[n, n_labels]`` float32.
        margins: Margin of each label; None where unlabelled.
        summary: Content of summary.json.
        events: Content of events.jsonl.
    """

    folder: Path
    model: str
    config: SearchConfig
    source: TaskSource | None
    dataset: Dataset
    labels: IntArray
    scores: ScoreArray
    margins: tuple[float | None, ...]
    summary: dict[str, Any]
    events: tuple[dict[str, Any], ...]


def read_run(folder: Path) -> FinishedRun:
    """Read a run folder.

    Raises:
        InputError: No run there, or an unfinished one.
    """
    content = read_config(folder / CONFIG_FILE)
    summary = read_summary(folder)
    if summary is None:
        raise InputError(f"the run in {folder} is not finished (no summary.json); {RUN_AGAIN}")
    identity = content[IDENTITY]
    results = read_lines(folder / LABELS_FILE)
    examples = tuple(Example(**line) for line in read_lines(folder / EXAMPLES_FILE))
    if [r["id"] for r in results] != [e.id for e in examples]:
        raise InputError(
            f"{folder}: labels.jsonl and examples.jsonl name different examples; {RUN_AGAIN}"
        )
    return FinishedRun(
        folder=folder,
        model=str(content["model"]),
        config=stored_settings(content),
        source=stored_source(content),
        dataset=Dataset(
            examples,
            LabelSpace(tuple(identity["labels"])),
            name=identity["dataset"],
            separator=identity["separator"],
        ),
        labels=np.array([r["label_index"] for r in results], dtype=np.int32),
        scores=np.array([r["logprobs"] for r in results], dtype=np.float32),
        margins=tuple(r["margin"] for r in results),
        summary=summary,
        events=tuple(read_lines(folder / EVENTS_FILE)),
    )


def stored_settings(content: Mapping[str, Any]) -> SearchConfig:
    """The SearchConfig inside the content of config.yaml."""
    names = {f.name for f in dataclasses.fields(SearchConfig)} | REMOVED_SETTINGS.keys()
    return SearchConfig.from_mapping({k: v for k, v in content.items() if k in names})


def stored_source(content: Mapping[str, Any]) -> TaskSource | None:
    """The TaskSource inside the content of config.yaml, if it has one."""
    if not content.get("task"):
        return None
    return TaskSource(
        task=content["task"],
        data=content.get("data"),
        limit=content.get("limit"),
        seed=content.get("seed", 0),
        options=content.get("options") or {},
    )
