"""Run an experiment: every cell, then its table and its figure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from icm_fast.engine.progress import Headed, Quiet
from icm_fast.errors import InputError
from icm_fast.experiments.cell import MACHINE, Cell
from icm_fast.experiments.documents import ColumnDocument, ExperimentDocument, Heading, Versions
from icm_fast.experiments.experiment import Column, Experiment
from icm_fast.experiments.figures import experiment_figure, figure_module
from icm_fast.experiments.methods import METHODS
from icm_fast.experiments.summary import summarize_column
from icm_fast.experiments.table import experiment_text
from icm_fast.files import write_atomically, writing
from icm_fast.model.load import check_model_name
from icm_fast.scoring.models import Opened, open_model
from icm_fast.scoring.servers.address import is_address, parse_address, reach_of
from icm_fast.training.sft.trainer import training_packages
from icm_fast.types import Reporter


def run_experiment(
    experiment: Experiment,
    *,
    output: Path,
    command: Sequence[str],
    data: Path | None = None,
    progress: Reporter | None = None,
) -> ExperimentDocument:
    """Run every unfinished cell; write JSON, Markdown, PNG and SVG after each column.

    Args:
        experiment: What to run.
        output: Folder of the four files, named by ``experiment.file_name``, and of the cells'
            files, from which an interrupted experiment resumes.
        command: The command line, for the record.
        data: Folder of the data files.
        progress: Receives a line about each result, and the progress of searches and trainings.

    Returns:
        The document that was written as JSON.

    Raises:
        InputError: Missing data, a bad column, or a file system that refuses.
    """
    for column in experiment.columns:
        _check_data(column, data)
        column.source(experiment.seeds[0], data).load_dataset()
        for name in dict.fromkeys((column.model, column.chat_model or column.model)):
            _check_model(column, name)
    _check_packages(experiment)
    models = _Models()
    done: list[ColumnDocument] = []
    used: list[Versions] = []
    n_cells = len(experiment.columns) * len(experiment.seeds)
    for place, column in enumerate(experiment.columns):
        model, chat_model = models.of(column)
        results = []
        for k, seed in enumerate(experiment.seeds):
            number = place * len(experiment.seeds) + k + 1
            heading = f"[{number}/{n_cells}] {column.name}, {column.model}, seed {seed}"
            folder = _folder(output, column) / f"seed-{seed}"
            cell = Cell(column, seed, folder, model, data, chat_model)
            with Headed(progress or Quiet(), heading) as reporter:
                results.append(cell.run(experiment.methods_of(column), reporter))
        done.append(summarize_column(column, experiment.methods_of(column), results))
        used += [each for result in results for each in result.versions]
        _write(_document(experiment, command, done, used), output, experiment.file_name)
    return _document(experiment, command, done, used)


def _document(
    experiment: Experiment,
    command: Sequence[str],
    columns: Sequence[ColumnDocument],
    used: Sequence[Versions],
) -> ExperimentDocument:
    versions = _joined(used)
    return {
        **_heading(experiment),
        "command": " ".join(command),
        "machine": versions.pop(MACHINE, "machine not recorded"),
        "versions": versions,
        "columns": list(columns),
    }


class _Models:
    """The models of the current column; those of the last column are reused where they fit."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], Opened] = {}

    def of(self, column: Column) -> tuple[Opened, Opened]:
        """A column's model, and that of its prompts in a chat template."""
        config = column.config(0)
        how = (config.dtype, config.device, config.engine, config.server, config.tokenizer)
        keys = [(name, *how) for name in (column.model, column.chat_model or column.model)]
        self._kept = {key: self._kept[key] for key in keys if key in self._kept}
        for key in keys:
            if key not in self._kept:
                self._kept[key] = open_model(key[0], config)
        return self._kept[keys[0]], self._kept[keys[1]]


def _check_model(column: Column, name: str) -> None:
    """Raise InputError now for a model that does not exist, or that cannot do what is wanted."""
    if not is_address(name):
        check_model_name(name)
        return
    parse_address(name, allow_http=reach_of().allow_http)
    if column.batch_size is not None:
        raise InputError(
            f"column {column.name!r} searches batch by batch and tunes the model in between, but "
            f"{name} is a server; pass local weights, or leave the column out with --only"
        )


def _heading(experiment: Experiment) -> Heading:
    return {
        "title": experiment.title,
        "experiment": experiment.name,
        "suite": experiment.suite,
        "source": experiment.source,
        "note": experiment.note,
        "figure": experiment.figure,
        "x_label": experiment.x_label,
        "log_x": experiment.log_x,
        "seeds": list(experiment.seeds),
    }


def _joined(used: Sequence[Versions]) -> Versions:
    """The versions of each package that computed something; several after a resumption."""
    names = dict.fromkeys(name for versions in used for name in versions)
    return {name: " and ".join(dict.fromkeys(v[name] for v in used if name in v)) for name in names}


def _check_packages(experiment: Experiment) -> None:
    """Raise InputError now if a package is missing that would be needed hours later."""
    methods = {name for column in experiment.columns for name in experiment.methods_of(column)}
    batches = any(column.batch_size is not None for column in experiment.columns)
    if batches or any(METHODS[name].use == "tuned" for name in methods):
        training_packages()
    figure_module()


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
    """Folder of a column; other settings get another folder, so that results never mix."""
    slug = re.sub(r"[^a-z0-9]+", "-", column.name.lower()).strip("-")
    return output / "cells" / f"{slug}-{column.digest()}"


def _write(document: ExperimentDocument, output: Path, name: str) -> None:
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1) + "\n"
    write_atomically(output / f"{name}.json", text.encode())
    markdown = experiment_text(document, f"{name}.png")
    write_atomically(output / f"{name}.md", markdown.encode())
    for kind in ("png", "svg"):
        write_atomically(output / f"{name}.{kind}", experiment_figure(document, kind))
