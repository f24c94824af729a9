"""The command ``icm-fast train dpo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icm_fast.cli.parameters import (
    AsJson,
    ProgressKind,
    ReportTo,
    RunModel,
    TrainingAssignments,
    TrainingFile,
)
from icm_fast.cli.settings import say, say_json, training_settings
from icm_fast.cli.train_reward import (
    FOUND,
    LabelSource,
    PairSource,
    left_out,
    pairs_from,
    training_figures,
)
from icm_fast.tracking import Tracking

_Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Folder of the model; by default RUN/dpo, or runs/dpo-NAME for a file.",
        show_default=False,
    ),
]


def dpo(
    source: PairSource,
    model: RunModel = None,
    labels: LabelSource = FOUND,
    file: TrainingFile = None,
    assignments: TrainingAssignments = None,
    output: _Output = None,
    report_to: ReportTo = None,
    as_json: AsJson = False,
    progress: ProgressKind = "auto",
) -> None:
    """Train on pairs by DPO, without a reward model; run it again to resume."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.training.dpo import DpoConfig, train

    config = training_settings(DpoConfig, file, assignments)
    given = pairs_from(source, labels, model, "dpo")
    done = train(
        given.pairs.pairs,
        model=given.load(config),
        config=config,
        output_dir=output or given.folder,
        progress=make_progress(progress),
        track=Tracking(report_to or ()),
    )
    if as_json:
        say_json(training_figures(done))
        return
    too_long = f", {done.n_too_long} left out as too long" if done.n_too_long else ""
    kept = "" if done.best_step is None else f" Kept: the weights of step {done.best_step}."
    say(
        f"{len(given.pairs.pairs)} pairs{left_out(given.pairs)}\n"
        f"Trained on {done.n_pairs} pairs{too_long}: {len(done.losses)} steps, loss "
        f"{done.losses[0]:.3f} at the start, {done.losses[-1]:.3f} at the end, "
        f"{done.seconds:.0f} s.{kept}\n"
        f"Model: {done.folder} (a folder that --model takes)"
    )
