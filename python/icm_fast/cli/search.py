"""The commands ``icm-fast search`` and ``icm-fast doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from icm_fast.cli.parameters import (
    AllowHttp,
    AsJson,
    Assignments,
    ConfigFile,
    Data,
    Limit,
    Model,
    Options,
    Output,
    Preset,
    ProgressKind,
    ReportTo,
    Seed,
    Server,
    Task,
    Tokenizer,
)
from icm_fast.cli.settings import Request, read_request, say, say_json
from icm_fast.errors import InputError
from icm_fast.scoring.models import Opened, open_model
from icm_fast.tracking import Tracking, TrackLike

if TYPE_CHECKING:
    from icm_fast.engine.doctor import Finding
    from icm_fast.runs.finished import FinishedRun


def search_command(
    task: Task = None,
    data: Data = None,
    model: Model = None,
    seed: Seed = None,
    limit: Limit = None,
    output: Output = None,
    preset: Preset = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    options: Options = None,
    server: Server = None,
    tokenizer: Tokenizer = None,
    allow_http: AllowHttp = False,
    report_to: ReportTo = None,
    as_json: AsJson = False,
    progress: ProgressKind = "auto",
) -> None:
    """Label the data of a task; run it again to resume."""
    request = read_request(
        config,
        assignments or (),
        options or (),
        task=task,
        data=data,
        model=model,
        preset=preset,
        seed=seed,
        limit=limit,
        server=server,
        tokenizer=tokenizer,
        output=output,
    )
    track = Tracking(report_to or ())
    found = run_search(request, request_model(request), progress, track)
    if as_json:
        say_json({"folder": found.folder, **found.summary})
        return
    from icm_fast.evaluation.report import run_report

    say(run_report(found).rstrip())


def run_search(
    request: Request, model: Opened, progress: str, track: TrackLike = None
) -> FinishedRun:
    """Search into the folder of ``request``; return what it holds then."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.engine.search import search
    from icm_fast.runs.finished import read_run

    dataset = request.source.load_dataset()
    with resumable(request.folder):
        search(
            dataset,
            model=model,
            config=request.config,
            output_dir=request.folder,
            progress=make_progress(progress),
            source=request.source,
            track=track,
        )
    return read_run(request.folder)


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Say how to resume when the user interrupts."""
    try:
        yield
    except KeyboardInterrupt:
        say(
            f"icm-fast: interrupted; everything scored so far is in {folder}, run the same command "
            "again to resume",
            err=True,
        )
        raise typer.Exit(130) from None


def request_model(request: Request) -> Opened:
    """The model of ``request``, not loaded yet."""
    return open_model(request.model, request.config)


def doctor(
    task: Task = None,
    data: Data = None,
    model: Model = None,
    seed: Seed = None,
    limit: Limit = None,
    preset: Preset = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    options: Options = None,
    server: Server = None,
    tokenizer: Tokenizer = None,
    allow_http: AllowHttp = False,
    as_json: AsJson = False,
) -> None:
    """Check model and data; predict the tokens and time of a search."""
    from icm_fast.engine.doctor import diagnose

    request = read_request(
        config,
        assignments or (),
        options or (),
        task=task,
        data=data,
        model=model,
        preset=preset,
        seed=seed,
        limit=limit,
        server=server,
        tokenizer=tokenizer,
    )
    findings: list[Finding] = []
    for finding in diagnose(request.source.load_dataset, request_model(request), request.config):
        findings.append(finding)
        if not as_json:
            say(f"{finding.state:4}  {finding.check}: {finding.detail}")
    if as_json:
        rows = [
            {"check": f.check, "state": f.state, "detail": f.detail, "fields": dict(f.fields)}
            for f in findings
        ]
        say_json({"findings": rows})
    failed = [finding.detail for finding in findings if not finding.passed]
    if failed:
        raise InputError(failed[0])
