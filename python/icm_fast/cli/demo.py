"""The command ``icm-fast demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icm_fast.cli.parameters import MODEL_HELP, AsJson, ProgressKind, ReportTo
from icm_fast.cli.search import resumable
from icm_fast.cli.settings import say, say_json
from icm_fast.tracking import Tracking


def demo(
    model: Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP)] = "smollm2",
    n: Annotated[int, typer.Option(metavar="N", help="Number of reviews to label.")] = 64,
    n_test: Annotated[int, typer.Option(metavar="N", help="Number of held-out reviews.")] = 100,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of every random draw.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Run folder.")
    ] = Path("runs/demo"),
    report_to: ReportTo = None,
    as_json: AsJson = False,
    progress: ProgressKind = "auto",
) -> None:
    """Label movie reviews and compare the labels with human ones."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.experiments.demo import demo_text, run_demo

    with resumable(output):
        result = run_demo(
            model,
            n=n,
            seed=seed,
            output=output,
            n_test=n_test,
            progress=make_progress(progress),
            track=Tracking(report_to or ()),
        )
    if as_json:
        say_json({"folder": output, "summary": result.run.summary, "comparison": result.comparison})
        return
    say(demo_text(result))
