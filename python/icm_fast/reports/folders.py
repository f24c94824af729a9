"""From folders to a report: which kind each folder is, and who writes its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icm_fast.errors import InputError
from icm_fast.labelling.stored import is_labelling
from icm_fast.reports.comparisons import comparison_report
from icm_fast.reports.content import Report
from icm_fast.reports.labelled import DEFAULT_ROWS
from icm_fast.reports.labellings import labelling_report
from icm_fast.reports.searches import search_gold, search_report
from icm_fast.reports.trainings import is_training, training_report
from icm_fast.runs.finished import FinishedRun, read_run


@dataclass(frozen=True, slots=True)
class Request:
    """What a report is made of.

    Attributes:
        folders: One folder of a search, a labelling or a training; or several runs to compare.
        gold: Where gold labels are: a column of the table or data; ``task`` for those of a search's
            task; None for no comparison with gold.
        data: The table of a labelling, where it has moved.
        n_rows: Maximum number of rows in the table of rows.
    """

    folders: tuple[Path, ...]
    gold: str | None = None
    data: str | None = None
    n_rows: int = DEFAULT_ROWS


def read_report(request: Request) -> Report:
    """Read the folders and make their report.

    Raises:
        InputError: A folder that is not finished or damaged, or gold that cannot be read.
    """
    if request.n_rows < 1:
        raise InputError(f"{request.n_rows} rows cannot be shown; ask for 1 or more")
    if request.data is not None and not all(map(is_labelling, request.folders)):
        raise InputError("--data names the table of a labelling; leave it out")
    if len(request.folders) > 1:
        runs = [_search(folder) for folder in request.folders]
        return comparison_report(runs, gold=request.gold, n_rows=request.n_rows)
    (folder,) = request.folders
    if is_labelling(folder):
        return labelling_report(folder, gold=request.gold, data=request.data, n_rows=request.n_rows)
    if is_training(folder):
        if request.gold is not None:
            raise InputError("a training has no labels to compare with gold; leave out --gold")
        return training_report(folder)
    run = read_run(folder)
    gold = None if request.gold is None else search_gold(run, request.gold)
    return search_report(run, gold=gold, n_rows=request.n_rows)


def _search(folder: Path) -> FinishedRun:
    for what, is_one in (("labelling", is_labelling), ("training", is_training)):
        if is_one(folder):
            raise InputError(f"{folder} is a {what}, but only searches are compared; leave it out")
    return read_run(folder)
