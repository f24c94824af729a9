"""The command ``icm-fast export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icm_fast.cli.parameters import RunFolder
from icm_fast.errors import InputError

if TYPE_CHECKING:
    from icm_fast.runs.finished import FinishedRun


_LM_EVAL = "lm-eval"
_HUB = "Upload to the Hugging Face Hub"


_Format = Annotated[
    str | None,
    typer.Option(
        metavar="FORMAT",
        help="jsonl, csv, parquet, trl-sft, trl-preference, dpo, axolotl or lm-eval; taken "
        "from the suffix of the file by default.",
        show_default=False,
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="File to write; a folder for lm-eval and --push. In RUN by default.",
        show_default=False,
    ),
]
_Shots = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Number of demonstrations; same as `evaluate run` by default.",
        show_default=False,
        rich_help_panel=_LM_EVAL,
    ),
]
_Test = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Number of held-out examples; 100 by default.",
        show_default=False,
        rich_help_panel=_LM_EVAL,
    ),
]
_Push = Annotated[
    str | None,
    typer.Option(
        metavar="OWNER/NAME",
        help="Upload the labels as a data set with a card.",
        show_default=False,
        rich_help_panel=_HUB,
    ),
]
_Private = Annotated[
    bool,
    typer.Option("--private", help="Make the data set private.", rich_help_panel=_HUB),
]
_License = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="License of the data, for the card.",
        show_default=False,
        rich_help_panel=_HUB,
    ),
]
_DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Write the folder but upload nothing.", rich_help_panel=_HUB),
]


def export(
    run_folder: RunFolder,
    format: _Format = None,
    output: _Output = None,
    shots: _Shots = None,
    test: _Test = None,
    push: _Push = None,
    private: _Private = False,
    license: _License = None,
    dry_run: _DryRun = False,
) -> None:
    """Write labels as a table, training data or lm-eval task."""
    from icm_fast.export.lm_eval import LM_EVAL
    from icm_fast.export.tables import format_of
    from icm_fast.runs.finished import read_run

    chosen = format_of(None if push else output, format)
    if chosen != LM_EVAL and (shots is not None or test is not None):
        raise InputError("--shots and --test belong to --format lm-eval; add it or leave them out")
    if push is None and (private or license is not None or dry_run):
        raise InputError("--private, --license and --dry-run belong to --push OWNER/NAME; add it")
    run = read_run(run_folder)
    if push is not None:
        folder = output or run_folder / "hub"
        typer.echo(_push(run, folder, chosen, push, private, license, dry_run))
    elif chosen == LM_EVAL:
        typer.echo(_lm_eval(run, output or run_folder / LM_EVAL, shots, test))
    else:
        typer.echo(_file(run, chosen, output))


def _file(run: FinishedRun, format: str, output: Path | None) -> str:
    from icm_fast.export.tables import export_run, file_suffix

    suffix = file_suffix(format)
    default = f"export{suffix}" if suffix == f".{format}" else f"{format}{suffix}"
    path = output or run.folder / default
    written = export_run(run, format, path)
    return f"{written.n_rows} rows written to {path}" + _noted(written.note)


def _lm_eval(run: FinishedRun, folder: Path, shots: int | None, test: int | None) -> str:
    from icm_fast.export.lm_eval import write_lm_eval_task

    task = write_lm_eval_task(run, folder, shots=shots, n_test=100 if test is None else test)
    counts = f"{task.n_shots} demonstrations and {task.n_test} test examples written"
    return f"{counts}\n\n{task.command}"


def _push(
    run: FinishedRun,
    folder: Path,
    format: str,
    repository: str,
    private: bool,
    license: str | None,
    dry_run: bool,
) -> str:
    from icm_fast.export.hub_push import check_repository, push, write_hub_folder

    check_repository(repository)
    written = write_hub_folder(run, folder, format=format, license=license)
    counts = f"{written.n_rows} rows"
    if dry_run:
        return f"{counts} and a card written to {folder}, not pushed{_noted(written.note)}"
    address = push(written, repository, private=private)
    return f"{counts} and a card pushed to {address}{_noted(written.note)}"


def _noted(note: str) -> str:
    return f"; {note}" if note else ""
