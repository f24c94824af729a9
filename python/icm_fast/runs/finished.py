"""Reading the folder of a finished run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icm_fast.config import REMOVED_SETTINGS, SearchConfig, resolved_settings
from icm_fast.errors import InputError
from icm_fast.files import refuse_links
from icm_fast.files.fields import checked, read_object_lines
from icm_fast.runs.config import IDENTITY, PREAMBLE, read_config
from icm_fast.runs.digests import check_files
from icm_fast.runs.labels import read_results
from icm_fast.runs.store import CONFIG_FILE, EVENTS_FILE, EXAMPLES_FILE, RUN_AGAIN, read_summary
from icm_fast.tasks.source import TaskSource
from icm_fast.types import Dataset, Example, FloatArray, IntArray, LabelSpace, ScoreArray


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
        confidence: ``[n]`` probability of each label, 0 where unlabelled; None where the search
            gave none.
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
    confidence: FloatArray | None
    summary: dict[str, Any]
    events: tuple[dict[str, Any], ...]


def read_run(folder: Path) -> FinishedRun:
    """Read a run folder.

    Raises:
        InputError: No run there, an unfinished one, or files that are damaged.
    """
    refuse_links(folder)
    content = read_config(folder / CONFIG_FILE)
    summary = read_summary(folder)
    if summary is None:
        raise InputError(f"the run in {folder} is not finished (no summary.json); {RUN_AGAIN}")
    config = checked(lambda: stored_settings(content), str(folder / CONFIG_FILE), RUN_AGAIN)
    dataset = _dataset(folder, content[IDENTITY])
    results = read_results(folder, dataset)
    events = tuple(_events(folder))
    check_files(summary, folder, RUN_AGAIN)
    return FinishedRun(
        folder=folder,
        model=str(content["model"]),
        config=config,
        source=stored_source(content),
        dataset=dataset,
        labels=results.labels,
        scores=results.scores,
        margins=results.margins,
        confidence=results.confidence,
        summary=summary,
        events=events,
    )


def _dataset(folder: Path, identity: Mapping[str, Any]) -> Dataset:
    """The examples of examples.jsonl with the label space of config.yaml."""
    path = folder / EXAMPLES_FILE
    lines = read_object_lines(path, RUN_AGAIN)
    if len(lines) != identity["n_examples"]:
        raise InputError(
            f"{path} has {len(lines)} examples, config.yaml says {identity['n_examples']}; "
            f"{RUN_AGAIN}"
        )
    examples = tuple(
        Example(
            line.text("id"),
            line.text("prompt"),
            line.optional_text("group"),
            line.optional_text("answer"),
        )
        for line in lines
    )
    labels = LabelSpace(tuple(identity["labels"]))
    more = {"separator": identity["separator"], "preamble": identity.get(PREAMBLE, "")}
    return checked(
        lambda: Dataset(examples, labels, name=identity["dataset"], **more),
        str(path),
        RUN_AGAIN,
    )


def _events(folder: Path) -> Iterator[dict[str, Any]]:
    """The decisions of the search, of which reports count the moves."""
    for line in read_object_lines(folder / EVENTS_FILE, RUN_AGAIN):
        line.text("move")
        if not isinstance(line.content.get("accepted"), bool):
            raise line.wrong("accepted", "true or false")
        yield dict(line.content)


def stored_settings(content: Mapping[str, Any]) -> SearchConfig:
    """The SearchConfig inside the content of config.yaml."""
    names = {f.name for f in dataclasses.fields(SearchConfig)} | REMOVED_SETTINGS.keys()
    settings = {k: v for k, v in content.items() if k in names}
    return SearchConfig.from_mapping(resolved_settings(settings))


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
