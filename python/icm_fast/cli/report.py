"""The command ``icm-fast report``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icm_fast.cli.parameters import AsJson
from icm_fast.cli.settings import say, say_json
from icm_fast.errors import InputError, shown, suggest

if TYPE_CHECKING:
    from icm_fast.reports.content import Report as FoundReport

_FORMATS = ("markdown", "html")
_HTML_SUFFIXES = (".html", ".htm")
_PAGE = "Page"

_Folders = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN...",
        help="Folder of a finished search; for a page also of a labelling or a training, or "
        "several searches to compare.",
        show_default=False,
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write to this file, a page where it ends in .html; printed by default or with -.",
        show_default=False,
    ),
]
_Format = Annotated[
    str | None,
    typer.Option(
        metavar="FORMAT",
        help="markdown or html; by default what the file's name says, otherwise markdown.",
        show_default=False,
    ),
]
_Gold = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Compare with gold: a column of the labelled table, or `task` for the gold that the "
        "task of a search has.",
        show_default=False,
        rich_help_panel=_PAGE,
    ),
]
_Data = Annotated[
    str | None,
    typer.Option(
        metavar="TABLE",
        help="The table of a labelling, where it has moved.",
        show_default=False,
        rich_help_panel=_PAGE,
    ),
]
_Rows = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Maximum number of rows in the table, from both ends of the confidence; 20,000 by "
        "default.",
        show_default=False,
        rich_help_panel=_PAGE,
    ),
]
_Figures = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Write every figure as PNG and SVG, too (needs matplotlib).",
        show_default=False,
        rich_help_panel=_PAGE,
    ),
]


def report(
    run_folders: _Folders,
    output: _Output = None,
    format: _Format = None,
    gold: _Gold = None,
    data: _Data = None,
    rows: _Rows = None,
    figures: _Figures = None,
    as_json: AsJson = False,
) -> None:
    """Summarise a run as Markdown, as a page to read and share, or as JSON."""
    if as_json:
        if format is not None or output is not None:
            raise InputError("--json prints what a page says; leave out --format and -o")
        if figures is not None:
            raise InputError("--figures belongs to a page; leave it out, or --json")
        say_json(_content(_read(run_folders, gold, data, rows)))
        return
    chosen = _chosen_format(format, output)
    page_only = {"--gold": gold, "--data": data, "--rows": rows, "--figures": figures}
    if chosen == "html":
        _write_page(run_folders, output, gold, data, rows, figures)
        return
    for name, value in page_only.items():
        if value is not None:
            raise InputError(f"{name} is for pages; add --format html, or -o with a name in .html")
    _write_markdown(run_folders, output)


def _chosen_format(format: str | None, output: Path | None) -> str:
    if format is None:
        page = output is not None and output.suffix.lower() in _HTML_SUFFIXES
        return "html" if page else "markdown"
    if format not in _FORMATS:
        raise InputError(f"unknown format {shown(format)}{suggest(format, _FORMATS)}")
    return format


def _write_markdown(folders: list[Path], output: Path | None) -> None:
    from icm_fast.evaluation.report import run_report
    from icm_fast.files import is_stdout, write_output
    from icm_fast.labelling.stored import is_labelling
    from icm_fast.runs.finished import read_run

    if is_labelling(folders[0]):
        raise InputError(f"{folders[0]} is a labelling, whose report is a page: -o report.html")
    if len(folders) > 1:
        raise InputError(
            "Markdown summarises one search; compare several on a page: -o report.html"
        )
    text = run_report(read_run(folders[0]))
    if output is None or is_stdout(output):
        say(text.rstrip())
    else:
        write_output(output, text.encode())
        say(f"report written to {output}")


def _read(folders: list[Path], gold: str | None, data: str | None, rows: int | None) -> FoundReport:
    from icm_fast.reports import Request, read_report
    from icm_fast.reports.labelled import DEFAULT_ROWS

    n_rows = DEFAULT_ROWS if rows is None else rows
    return read_report(Request(tuple(folders), gold, data, n_rows))


def _content(found: FoundReport) -> dict[str, object]:
    """A report as JSON, each block with its type."""
    content = dataclasses.asdict(found)
    del content["figures"]  # which are blocks of the sections
    for part, section in zip(content["sections"], found.sections, strict=True):
        part["blocks"] = [
            {"type": type(block).__name__.lower(), **block_content}
            for block, block_content in zip(section.blocks, part["blocks"], strict=True)
        ]
    return content


def _write_page(
    folders: list[Path],
    output: Path | None,
    gold: str | None,
    data: str | None,
    rows: int | None,
    figures: Path | None,
) -> None:
    from icm_fast.files import is_stdout, write_output
    from icm_fast.reports import render_page
    from icm_fast.reports.pictures import write_pictures

    found = _read(folders, gold, data, rows)
    page = render_page(found, ", ".join(folder.resolve().name for folder in folders))
    target = Path("-") if output is None else output
    if figures is not None:
        paths = write_pictures(found, figures)
        say(f"{len(paths)} files of figures written to {figures}", err=is_stdout(target))
    write_output(target, page.encode())
    if not is_stdout(target):
        say(f"report written to {output}")
