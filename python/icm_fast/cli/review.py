"""The command ``icm-fast review``."""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from icm_fast.cli.settings import say

_Folder = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="Folder of a finished labelling.", show_default=False),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="JSON lines that receive the answers; corrections.jsonl in RUN by default.",
        show_default=False,
    ),
]
_Rows = Annotated[int, typer.Option(metavar="N", help="Maximum number of rows.")]
_Data = Annotated[
    str | None,
    typer.Option(metavar="TABLE", help="The table, where it has moved.", show_default=False),
]
_Port = Annotated[
    int, typer.Option(metavar="N", help="Port on this machine; 0 takes one that is free.")
]
_Open = Annotated[bool, typer.Option("--open", help="Open the address in a browser.")]


def review(
    run_folder: _Folder,
    output: _Output = None,
    rows: _Rows = 100,
    data: _Data = None,
    port: _Port = 0,
    open_it: _Open = False,
) -> None:
    """Review uncertain rows in a browser on this machine, with keys."""
    from icm_fast.files import expanded, lock_folder
    from icm_fast.reports.labellings import read_labelled
    from icm_fast.reports.review import ANSWERS_FILE, Answers, Review
    from icm_fast.reports.server import ReviewServer

    stored = read_labelled(run_folder, data)
    lock = lock_folder(run_folder)
    try:
        path = run_folder / ANSWERS_FILE if output is None else expanded(output)
        answers = Answers(path, stored.task)
        with ReviewServer(Review(stored, answers, rows), port) as server:
            say(f"{len(server.review.rows)} rows to review at {server.address}")
            say("Ctrl-C ends the review; answers are on disk as soon as they are given")
            if open_it:
                webbrowser.open(server.address)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                say("")
    finally:
        os.close(lock)
    say(f"{len(answers)} answers in {path}; use them: the same label command, with")
    say(f"  --corrections {path}")
