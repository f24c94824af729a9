"""The command ``icm-fast train rl``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icm_fast.cli.parameters import (
    MODEL_HELP,
    AsJson,
    ProgressKind,
    ReportTo,
    TrainingAssignments,
    TrainingFile,
)
from icm_fast.cli.settings import say, say_json, training_settings
from icm_fast.tracking import Tracking

if TYPE_CHECKING:
    from icm_fast.training.rl import TrainedPolicy


def rl(
    prompts: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="File with the column prompt (texts or messages), or a .txt file with one a line.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(metavar="MODEL", help=f"Start policy. {MODEL_HELP}", show_default=False),
    ],
    reward: Annotated[
        Path,
        typer.Option(
            metavar="RM", help="Folder written by `icm-fast train reward`.", show_default=False
        ),
    ],
    file: TrainingFile = None,
    assignments: TrainingAssignments = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder of the policy; RM/policy by default.",
            show_default=False,
        ),
    ] = None,
    report_to: ReportTo = None,
    as_json: AsJson = False,
    progress: ProgressKind = "auto",
) -> None:
    """Optimise a policy against a reward model; run it again to resume."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.training.rl import PolicyConfig, read_prompts, train_policy

    config = training_settings(PolicyConfig, file, assignments)
    given = read_prompts(prompts)
    if given.n_repeated:
        say(f"{given.n_repeated} repeated prompts left out", err=True)
    trained = train_policy(
        given.prompts,
        model=model,
        reward=reward,
        config=config,
        output_dir=output or reward / "policy",
        progress=make_progress(progress),
        track=Tracking(report_to or ()),
    )
    if as_json:
        log = trained.log
        figures = {"steps": log.steps, "measurements": log.measurements}
        say_json({"folder": trained.folder, "n_held_out": len(trained.held_out), **figures})
        return
    say(_summary(trained, config.n_episodes_per_step))


def _summary(trained: TrainedPolicy, n_episodes: int) -> str:
    """What changed on held-out prompts, for people."""
    log = trained.log
    lines = [f"{len(log.steps)} steps of {n_episodes} episodes."]
    if log.measurements:
        lines.append(f"On {len(trained.held_out)} held-out prompts, after 0 steps and at the end:")
        first, last = log.measurements[0], log.measurements[-1]
        for name, unit in (
            ("reward", ""),
            ("kl", " nats per token from the start policy"),
            ("perplexity", " under the start policy"),
            ("length", " tokens"),
            ("finished", " of the texts end on their own"),
            ("repetition", " of three-token sequences are repeated"),
            ("distinct", " of token pairs are different"),
        ):
            lines.append(f"  {name:<11} {first[name]:>8.3f} {last[name]:>8.3f}{unit}")
    lines.append(f"Policy: {trained.folder} (a folder that --model takes; samples.jsonl there)")
    return "\n".join(lines)
