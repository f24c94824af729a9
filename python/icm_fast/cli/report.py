"""The command ``icm-fast report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icm_fast.cli.parameters import RunFolder
from icm_fast.cli.settings import say


def report(
    run_folder: RunFolder,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write Markdown to this file; printed by default or with -.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Summarise a run: labels, moves, cost and uncertain labels."""
    from icm_fast.evaluation.report import run_report
    from icm_fast.files import is_stdout, write_output
    from icm_fast.runs.finished import read_run

    text = run_report(read_run(run_folder))
    if output is None or is_stdout(output):
        say(text.rstrip())
    else:
        write_output(output, text.encode())
        say(f"report written to {output}")
