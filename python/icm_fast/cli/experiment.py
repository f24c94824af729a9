"""The command ``icm-fast experiment``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from icm_fast.cli.parameters import AllowHttp, AsJson, ProgressKind, ReportTo, Server, Tokenizer
from icm_fast.cli.settings import say, say_json
from icm_fast.cli.workers import Ray, RayGpus, RayWorkers, models
from icm_fast.tracking import Tracking

_Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="Experiment or YAML file; without it, all experiments are listed.",
        show_default=False,
    ),
]
_Suite = Annotated[
    str, typer.Option(metavar="NAME", help="Size: small, or another that the file defines.")
]
_Model = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL",
        help="Replace the models of the experiment; may be repeated.",
        show_default=False,
    ),
]
_Data = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder of truthfulqa.jsonl and the other data files.",
        show_default=False,
    ),
]
_Seed = Annotated[
    list[int] | None,
    typer.Option(
        metavar="N", help="Replace the seeds of the suite; may be repeated.", show_default=False
    ),
]
_Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN", help="Run this column only; may be repeated.", show_default=False
    ),
]
_Output = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="FOLDER", help="Folder of results and unfinished work."),
]


def experiment(
    name: _Name = None,
    suite: _Suite = "small",
    model: _Model = None,
    data: _Data = None,
    seed: _Seed = None,
    only: _Only = None,
    output: _Output = Path("runs/experiments"),
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
    """Run one of the paper's experiments; run it again to resume."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.experiments.definition import experiment_names, read_experiment
    from icm_fast.experiments.run import run_experiment

    if name is None:
        names = experiment_names()
        if as_json:
            say_json(names)
        else:
            say("\n".join(names))
        return
    chosen = read_experiment(name, suite, models=model or (), seeds=seed or (), only=only or ())
    with models(ray, ray_workers, ray_gpus) as open_one:
        run_experiment(
            chosen.with_settings({"server": server, "tokenizer": tokenizer}),
            output=output,
            command=("icm-fast", *map(shlex.quote, sys.argv[1:])),
            data=data,
            progress=make_progress(progress, timed=True),
            open_one=open_one,
            track=Tracking(report_to or ()),
        )
    result = output / chosen.file_name
    if as_json:
        say(Path(f"{result}.json").read_text().rstrip())
        return
    say(f"{result}.md, .json, .png and .svg written")
