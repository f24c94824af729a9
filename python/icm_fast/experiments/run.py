"""Run an experiment: every cell, then its table and its figure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icm_fast.atomic_file import write_atomically, writing
from icm_fast.bench.machine import machine_facts
from icm_fast.errors import InputError
from icm_fast.experiments.cell import Cell, Say
from icm_fast.experiments.definition import Column, Experiment
from icm_fast.experiments.figures import experiment_figure
from icm_fast.experiments.summary import summarize_column
from icm_fast.experiments.table import experiment_text
from icm_fast.lazy_scorer import LazyModel
from icm_fast.run_config import versions

if TYPE_CHECKING:
    from icm_fast.progress import ProgressReporter


def run_experiment(
    experiment: Experiment,
    *,
    output: Path,
    command: Sequence[str],
    data: Path | None = None,
    say: Say = lambda text: None,
    progress: ProgressReporter | None = None,
) -> dict[str, Any]:
    """Run every cell that is not done yet and write JSON, Markdown, PNG and SVG.

    Args:
        experiment: What to run.
        output: Folder of the four files, and of the cells' own files, from which an interrupted
            experiment goes on.
        command: The command line, for the record.
        data: Folder of the data files.
        say: Gets a line about each result.
        progress: Shown during searches.

    Returns:
        The document that was written as JSON.

    Raises:
        InputError: Missing data, a bad column, or a file system that refuses.
    """
    for column in experiment.columns:
        _check_data(column, data)
    columns = []
    model = LazyModel(experiment.columns[0].model)
    n_cells = len(experiment.columns) * len(experiment.seeds)
    for place, column in enumerate(experiment.columns):
        config = column.config(0)
        if model.name != column.model:
            model = LazyModel(column.model, dtype=config.dtype, device=config.device)
        results = []
        for k, seed in enumerate(experiment.seeds):
            number = place * len(experiment.seeds) + k + 1
            heading = f"[{number}/{n_cells}] {column.name}, {column.model}, seed {seed}"
            cell = Cell(column, seed, _folder(output, column) / f"seed-{seed}", model, data)
            results.append(cell.run(experiment.methods_of(column), _with(heading, say), progress))
        columns.append(summarize_column(column, experiment.methods_of(column), results))
    document = {
        "title": experiment.title,
        "experiment": experiment.name,
        "suite": experiment.suite,
        "source": experiment.source,
        "note": experiment.note,
        "figure": experiment.figure,
        "x_label": experiment.x_label,
        "log_x": experiment.log_x,
        "seeds": list(experiment.seeds),
        "command": " ".join(command),
        "versions": versions(),
        "machine": _machine(),
        "columns": columns,
    }
    _write(document, output, f"{experiment.name}-{experiment.suite}")
    return document


def _with(heading: str, say: Say) -> Say:
    return lambda text: say(f"{heading}: {text}")


def _check_data(column: Column, data: Path | None) -> None:
    if column.data is None:
        return
    if data is None:
        raise InputError(
            f"column {column.name!r} needs the file {column.data}; name its folder with --data, or "
            "leave the column out with --only"
        )
    if not (data / column.data).exists():
        raise InputError(
            f"column {column.name!r} needs the file {column.data}, which is not in {data}; put it "
            "there, or leave the column out with --only"
        )


def _folder(output: Path, column: Column) -> Path:
    """Folder of a column; with other settings another one, so that results are never mixed up."""
    slug = re.sub(r"[^a-z0-9]+", "-", column.name.lower()).strip("-")
    return output / "cells" / f"{slug}-{column.digest()}"


def _machine() -> str:
    facts = machine_facts()
    return f"{facts['processor']}, {facts['processors']} threads"


def _write(document: dict[str, Any], output: Path, name: str) -> None:
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1) + "\n"
    write_atomically(output / f"{name}.json", text.encode())
    for kind in ("png", "svg"):
        write_atomically(output / f"{name}.{kind}", experiment_figure(document, kind))
    markdown = experiment_text(document, f"{name}.png")
    write_atomically(output / f"{name}.md", markdown.encode())
