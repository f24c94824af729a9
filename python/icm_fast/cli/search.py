"""The commands ``icm-fast search`` and ``icm-fast doctor``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icm_fast.cli.parameters import (
    AllowHttp,
    AsJson,
    Assignments,
    ConfigFile,
    Data,
    Engine,
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
from icm_fast.cli.workers import Ray, RayGpus, RayWorkers, models
from icm_fast.errors import InputError, shown
from icm_fast.scoring.models import Opened, OpenModel, open_model, width_of
from icm_fast.scoring.side_by_side import side_by_side
from icm_fast.tracking import Tracking, TrackLike

if TYPE_CHECKING:
    from icm_fast.engine.doctor import Finding
    from icm_fast.runs.finished import FinishedRun
    from icm_fast.types import Reporter


_MOST_SEEDS = 1000

_Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="A-B",
        help="Several searches, one for each seed, such as 0-7 or 0,3,5; with --limit each has "
        "another draw of the examples. Folders seed-N in that of --output.",
        show_default=False,
    ),
]


def search_command(
    task: Task = None,
    data: Data = None,
    model: Model = None,
    seed: Seed = None,
    seeds: _Seeds = None,
    limit: Limit = None,
    output: Output = None,
    preset: Preset = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    options: Options = None,
    engine: Engine = None,
    server: Server = None,
    tokenizer: Tokenizer = None,
    allow_http: AllowHttp = False,
    ray: Ray = None,
    ray_workers: RayWorkers = None,
    ray_gpus: RayGpus = None,
    report_to: ReportTo = None,
    as_json: AsJson = False,
    progress: ProgressKind = "auto",
) -> None:
    """Label the data of a task; run it again to resume."""
    if seed is not None and seeds is not None:
        raise InputError("--seed and --seeds exclude each other; drop one of them")

    def request_of(one: int | None) -> Request:
        return read_request(
            config,
            assignments or (),
            options or (),
            task=task,
            data=data,
            model=model,
            preset=preset,
            seed=one,
            limit=limit,
            engine=engine,
            server=server,
            tokenizer=tokenizer,
            output=output,
        )

    requests = [request_of(seed)]
    if seeds is not None:
        requests = [_below(request_of(one), one) for one in read_seeds(seeds)]
    track = Tracking(report_to or ())
    with models(ray, ray_workers, ray_gpus) as open_one:
        if seeds is None:
            opened = open_one(requests[0].model, requests[0].config)
            runs = [run_search(requests[0], opened, progress, track)]
        else:
            runs = _searches(requests, open_one, progress, track)
    if as_json:
        found = [{"folder": run.folder, **run.summary} for run in runs]
        say_json(found[0] if seeds is None else {"runs": found})
        return
    from icm_fast.evaluation.report import run_report

    for run in runs:
        report = run_report(run).rstrip()
        say(report if seeds is None else f"{run.folder}\n{report}\n")


def read_seeds(text: str) -> list[int]:
    """The seeds that ``0-7`` or ``0,3,5`` names, in order.

    Raises:
        InputError: It names none, one of them twice, or more than 1000.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 40:
            raise InputError(f"--seeds {shown(text)} must be A-B or A,B,C, such as 0-7")
        low, high = int(first), int(last or first)
        if high < low or len(found) + high - low >= _MOST_SEEDS:
            raise InputError(
                f"--seeds {shown(part)} must name 1 to {_MOST_SEEDS} seeds, such as 0-7"
            )
        found += range(low, high + 1)
    if len(set(found)) < len(found):
        raise InputError(f"--seeds {shown(text)} names a seed twice; name each once")
    return found


def _below(request: Request, seed: int) -> Request:
    """The request with a folder for the seed in that of ``--output``; by default it has one."""
    if request.output is None:
        return request
    return replace(request, output=request.output / f"seed-{seed}")


def _searches(
    requests: Sequence[Request], open_one: OpenModel, progress: str, track: Tracking
) -> list[FinishedRun]:
    """Search for each request, side by side where the model is held by several workers."""
    from icm_fast.engine.progress import Headed, Shared, make_progress

    # One model: the requests differ in their seeds alone.
    model = open_one(requests[0].model, requests[0].config)
    found: dict[int, FinishedRun] = {}
    with make_progress(progress) as reporter, resumable(requests[0].folder.parent):
        shared = Shared(reporter)

        def one(request: Request) -> FinishedRun:
            headed = Headed(shared, f"seed {request.config.seed}")
            return _searched(request, model, headed, track)

        for place, run in side_by_side(one, requests, min(width_of(model), len(requests))):
            found[place] = run
    return [found[place] for place in range(len(requests))]


def run_search(
    request: Request, model: Opened, progress: str, track: TrackLike = None
) -> FinishedRun:
    """Search into the folder of ``request``; return what it holds then."""
    from icm_fast.engine.progress import make_progress

    with resumable(request.folder):
        return _searched(request, model, make_progress(progress), track)


def _searched(request: Request, model: Opened, progress: Reporter, track: TrackLike) -> FinishedRun:
    from icm_fast.engine.search import search
    from icm_fast.runs.finished import read_run

    search(
        request.source.load_dataset(),
        model=model,
        config=request.config,
        output_dir=request.folder,
        progress=progress,
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
    engine: Engine = None,
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
        engine=engine,
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
