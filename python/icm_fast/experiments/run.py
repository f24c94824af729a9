"""Run an experiment: every cell, then its table and its figure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from icm_fast.engine.progress import Headed, Quiet, Shared
from icm_fast.errors import InputError
from icm_fast.experiments.cell import MACHINE, Cell, CellResult
from icm_fast.experiments.documents import ColumnDocument, ExperimentDocument, Heading, Versions
from icm_fast.experiments.experiment import Column, Experiment
from icm_fast.experiments.figures import experiment_figure, figure_module
from icm_fast.experiments.methods import METHODS
from icm_fast.experiments.summary import summarize_column
from icm_fast.experiments.table import experiment_text
from icm_fast.files import write_atomically, writing
from icm_fast.model.load import check_model_name
from icm_fast.scoring.elsewhere import ModelElsewhere
from icm_fast.scoring.models import ModelChoice, Opened, OpenModel, open_model
from icm_fast.scoring.servers.address import is_address, parse_address, reach_of
from icm_fast.scoring.side_by_side import side_by_side
from icm_fast.tracking import Part, RunTracking, TrackLike, tracked
from icm_fast.training.sft.trainer import training_packages
from icm_fast.types import Reporter


def run_experiment(
    experiment: Experiment,
    *,
    output: Path,
    command: Sequence[str],
    data: Path | None = None,
    progress: Reporter | None = None,
    open_one: OpenModel = open_model,
    track: TrackLike = None,
) -> ExperimentDocument:
    """Run every unfinished cell; write JSON, Markdown, PNG and SVG after each column.

    Args:
        experiment: What to run.
        output: Folder of the four files, named by ``experiment.file_name``, and of the cells'
            files, from which an interrupted experiment resumes.
        command: The command line, for the record.
        data: Folder of the data files.
        progress: Receives a line about each result, and the progress of searches and trainings.
        open_one: Opens a model by its name and settings.
        track: Called with each step of searches and trainings, or names trackers; the streams have
            the folder of the cell before them, such as ``main-1f0c/seed-0/search``.

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
    shown = progress or Quiet()
    settings = {"experiment": experiment.name, "suite": experiment.suite}
    # Experiments share the output folder.
    folder = output / f"{experiment.file_name}-tracking"
    with tracked(track, folder, "experiment", settings, shown.warn) as tracking:
        runs = _Cells(experiment, output, data, _Models(open_one), tracking)
        return _run_cells(experiment, runs, output, command, shown)


def _run_cells(
    experiment: Experiment, runs: _Cells, output: Path, command: Sequence[str], shown: Reporter
) -> ExperimentDocument:
    """Run the cells, and write the files after each column."""
    done: list[ColumnDocument] = []
    used: list[Versions] = []
    results: dict[int, CellResult] = {}
    n_seeds = len(experiment.seeds)
    for number, result in runs.results(shown):
        results[number] = result
        while len(done) < len(experiment.columns):
            numbers = range(len(done) * n_seeds, (len(done) + 1) * n_seeds)
            if not all(k in results for k in numbers):
                break
            column = experiment.columns[len(done)]
            found = [results[k] for k in numbers]
            done.append(summarize_column(column, experiment.methods_of(column), found))
            used += [each for one in found for each in one.versions]
            _write(_document(experiment, command, done, used), output, experiment.file_name)
    return _document(experiment, command, done, used)


class _Cells:
    """The cells of an experiment, column by column."""

    def __init__(
        self,
        experiment: Experiment,
        output: Path,
        data: Path | None,
        models: _Models,
        tracking: RunTracking,
    ) -> None:
        self._experiment = experiment
        self._output = output
        self._data = data
        self._models = models
        self._tracking = tracking

    def results(self, shown: Reporter) -> Iterator[tuple[int, CellResult]]:
        """Each result with the number of its cell from 0, as soon as it is there."""
        first, _ = self._models.of(self._experiment.columns[0])
        if not isinstance(first, ModelElsewhere):
            yield from side_by_side(lambda cell: cell(shown), self._all(), 1)
            return
        for column in self._experiment.columns:
            if column.batch_size is not None:
                raise InputError(
                    f"column {column.name!r} searches batch by batch and tunes the model in "
                    "between, which is the work of one process; drop --ray, or leave the column "
                    "out with --only"
                )
        with shown as entered:
            shared = Shared(entered)
            yield from side_by_side(lambda cell: cell(shared), self._all(), first.width)

    def _all(self) -> Iterator[Callable[[Reporter], CellResult]]:
        n_cells = len(self._experiment.columns) * len(self._experiment.seeds)
        number = 0
        for column in self._experiment.columns:
            model, chat_model = self._models.of(column)
            folder = _folder(self._output, column)
            for seed in self._experiment.seeds:
                number += 1
                heading = f"[{number}/{n_cells}] {column.name}, {column.model}, seed {seed}"
                part = Part(self._tracking, f"{folder.name}/seed-{seed}")
                cell = Cell(column, seed, folder / f"seed-{seed}", model, self._data, chat_model)
                yield partial(_run, cell, self._experiment.methods_of(column), heading, part)


def _run(
    cell: Cell, methods: Sequence[str], heading: str, part: Part, shown: Reporter
) -> CellResult:
    with Headed(shown, heading) as reporter:
        return cell.run(methods, reporter, part)


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

    def __init__(self, open_one: OpenModel) -> None:
        self._open = open_one
        self._kept: dict[ModelChoice, Opened] = {}

    def of(self, column: Column) -> tuple[Opened, Opened]:
        """A column's model, and that of its prompts in a chat template."""
        config = column.config(0)
        names = (column.model, column.chat_model or column.model)
        keys = [ModelChoice.of(name, config) for name in names]
        self._kept = {key: self._kept[key] for key in keys if key in self._kept}
        for key in keys:
            if key not in self._kept:
                self._kept[key] = self._open(key.path, config)
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
    """Folder of a column; other settings get another folder, so that results never mix.

    A column that another experiment of this output folder has under another name shares its folder,
    so that their common searches run once.
    """
    cells, digest = output / "cells", column.digest()
    slug = re.sub(r"[^a-z0-9]+", "-", column.name.lower()).strip("-")
    own = cells / f"{slug}-{digest}"
    if own.exists():
        return own
    return next(iter(sorted(cells.glob(f"*-{digest}"))), own)


def _write(document: ExperimentDocument, output: Path, name: str) -> None:
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1) + "\n"
    write_atomically(output / f"{name}.json", text.encode())
    markdown = experiment_text(document, f"{name}.png")
    write_atomically(output / f"{name}.md", markdown.encode())
    for kind in ("png", "svg"):
        write_atomically(output / f"{name}.{kind}", experiment_figure(document, kind))
