"""The command ``icm-fast export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icm_fast.cli.parameters import RunFolder
from icm_fast.cli.settings import say
from icm_fast.errors import InputError
from icm_fast.files import is_stdout

if TYPE_CHECKING:
    from icm_fast.runs.finished import FinishedRun


_LM_EVAL = "lm-eval"
_HUB = "Upload to the Hugging Face Hub"


_Format = Annotated[
    str | None,
    typer.Option(
        metavar="FORMAT",
        help="jsonl, csv, parquet, trl-sft, messages, trl-preference, dpo, axolotl or lm-eval; "
        "taken from the suffix of the file by default. Of a labelling: argilla, label-studio or "
        "cleanlab, and of a comparison trl-preference or dpo.",
        show_default=False,
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="File to write, - for stdout; a folder for lm-eval and --push. In RUN by default.",
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
    bool | None,
    typer.Option(
        "--private/--public",
        help="Make a new data set private or public; private by default.",
        show_default=False,
        rich_help_panel=_HUB,
    ),
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


_CsvSafe = Annotated[
    bool,
    typer.Option(
        "--csv-safe",
        help="Put an apostrophe before texts that a spreadsheet would run as formulas.",
    ),
]


_Rows = Annotated[
    int | None,
    typer.Option(
        "--rows",
        metavar="N",
        help="Number of rows for review, the least certain ones; 100 by default.",
        show_default=False,
        rich_help_panel="Review of a labelling",
    ),
]


def export(
    run_folder: RunFolder,
    format: _Format = None,
    output: _Output = None,
    shots: _Shots = None,
    test: _Test = None,
    push: _Push = None,
    private: _Private = None,
    license: _License = None,
    dry_run: _DryRun = False,
    csv_safe: _CsvSafe = False,
    rows: _Rows = None,
) -> None:
    """Write labels as a table, training data, lm-eval task or for review."""
    from icm_fast.export.lm_eval import LM_EVAL
    from icm_fast.export.tables import format_of
    from icm_fast.runs.finished import read_run

    if _is_labelling(run_folder):
        others = (shots, test, push, private, license)
        _refuse_for_labelling(any(v is not None for v in others) or dry_run or csv_safe)
        say(_labelling(run_folder, format, output, rows), err=is_stdout(output))
        return
    if rows is not None:
        raise InputError(f"--rows belongs to the folder of a labelling, and {run_folder} is a run")
    chosen = format_of(None if push else output, format)
    if chosen != LM_EVAL and (shots is not None or test is not None):
        raise InputError("--shots and --test belong to --format lm-eval; add it or leave them out")
    if push is None and (private is not None or license is not None or dry_run):
        raise InputError(
            "--private, --public, --license and --dry-run belong to --push OWNER/NAME; add it"
        )
    if is_stdout(output) and (push is not None or chosen == LM_EVAL):
        raise InputError("--output - is standard output, but this writes a folder; name one")
    if csv_safe and (push is not None or chosen != "csv"):
        raise InputError("--csv-safe belongs to a CSV file; add --format csv or leave it out")
    run = read_run(run_folder)
    if push is not None:
        folder = output or run_folder / "hub"
        say(_push(run, folder, chosen, push, private is not False, license, dry_run))
    elif chosen == LM_EVAL:
        say(_lm_eval(run, output or run_folder / LM_EVAL, shots, test))
    else:
        say(_file(run, chosen, output, csv_safe), err=is_stdout(output))


def _is_labelling(folder: Path) -> bool:
    from icm_fast.labelling.folder import LABELLING_FILE

    return (folder / LABELLING_FILE).exists()


def _refuse_for_labelling(given: bool) -> None:
    if given:
        raise InputError(
            "of a labelling, --format, --rows and --output are the options of export; leave the "
            "others out"
        )


def _labelling(folder: Path, format: str | None, output: Path | None, rows: int | None) -> str:
    from icm_fast.labelling.export import DEFAULT_ROWS, FORMATS, export_labelling

    if format is None:
        raise InputError(f"name the format of the export: --format {', '.join(FORMATS)}")
    n_rows = DEFAULT_ROWS if rows is None else rows
    path, n = export_labelling(folder, format, output, n_rows=n_rows)
    where = "standard output" if is_stdout(path) else str(path)
    return f"{n} rows written to {where}"


def _file(run: FinishedRun, format: str, output: Path | None, csv_safe: bool) -> str:
    from icm_fast.export.tables import default_file, export_run

    written = export_run(run, format, output, csv_safe=csv_safe)
    path = output or default_file(run, format)
    where = "standard output" if is_stdout(path) else str(path)
    return f"{written.n_rows} rows written to {where}" + _noted(written.note)


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
