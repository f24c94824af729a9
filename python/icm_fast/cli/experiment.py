"""The command ``icm-fast experiment``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def experiment(
    name: Annotated[
        str | None, typer.Argument(help="Experiment, or a YAML file; all are listed without.")
    ] = None,
    suite: Annotated[str, typer.Option(help="Size: small, or as the experiment says.")] = "small",
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model instead of those of the experiment; may be repeated."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of truthfulqa.jsonl and the other data files.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds instead of the suite's.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Column; may be repeated.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of results and of unfinished work.")
    ] = Path("runs/experiments"),
) -> None:
    """Run one of the paper's experiments; an interrupted one goes on when called again."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.experiments.definition import experiment_names, read_experiment
    from icm_fast.experiments.run import run_experiment

    if name is None:
        typer.echo("\n".join(experiment_names()))
        return
    chosen = read_experiment(name, suite, models=model or (), seeds=seed or (), only=only or ())
    run_experiment(
        chosen,
        output=output,
        command=("icm-fast", *map(shlex.quote, sys.argv[1:])),
        data=data,
        progress=make_progress(timed=True),
    )
    result = output / chosen.file_name
    typer.echo(f"{result}.md, .json, .png and .svg written")
