"""The command ``icm-fast runs ls``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icm_fast.cli.parameters import AsJson
from icm_fast.cli.settings import say, say_json

if TYPE_CHECKING:
    from icm_fast.reports.listing import ListedRun

runs_app = typer.Typer(help="Look at the folders of runs.")
_COLUMNS = ("folder", "kind", "state", "verdict", "examples", "tokens", "time", "model")
_NUMBERS = frozenset((4, 5, 6))

_Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Where runs are looked for, at any depth.")
]


@runs_app.callback()
def _group() -> None:
    """Look at the folders of runs."""


@runs_app.command("ls")
def list_command(folder: _Folder = Path("runs"), as_json: AsJson = False) -> None:
    """List runs with their kind, their state and what they cost."""
    from icm_fast.reports.listing import list_runs

    found = list_runs(folder)
    if as_json:
        say_json({"runs": [dataclasses.asdict(run) for run in found]})
        return
    if not found:
        say(f"no runs in {folder}")
        return
    for line in _table([_COLUMNS, *map(_cells, found)]):
        say(line)
    for run in found:
        if run.problem:
            say(f"{run.folder}: {run.problem}", err=True)


def _cells(run: ListedRun) -> tuple[str, ...]:
    from icm_fast.engine.progress import clock

    counts = (f"{n:,}" if n is not None else "-" for n in (run.n_examples, run.n_tokens))
    time = "-" if run.seconds is None else clock(run.seconds)
    return (
        str(run.folder),
        run.kind,
        run.state,
        run.verdict or "-",
        *counts,
        time,
        run.model or "-",
    )


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_padded(row, widths)).rstrip() for row in rows]


def _padded(row: tuple[str, ...], widths: list[int]) -> list[str]:
    return [
        cell.rjust(width) if k in _NUMBERS else cell.ljust(width)
        for k, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
