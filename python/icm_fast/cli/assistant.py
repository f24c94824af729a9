"""The command ``icm-fast assistant``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icm_fast.cli.parameters import MODEL_HELP, ProgressKind
from icm_fast.cli.settings import parse_assignments, say

_Model = Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP)]
_Seed = Annotated[int, typer.Option(metavar="N", help="Seed of every stage.")]
_Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Folder of the results; runs/assistant-MODEL-seedN by default.",
        show_default=False,
    ),
]
_Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change the size of a stage, for example n=64; may be repeated.",
        show_default=False,
    ),
]
_Rl = Annotated[
    list[str] | None,
    typer.Option(
        "--rl",
        metavar="KEY=VALUE",
        help="Change a setting of the policy training; may be repeated.",
        show_default=False,
    ),
]


def assistant(
    model: _Model = "smollm2",
    seed: _Seed = 0,
    output: _Output = None,
    assignments: _Assignments = None,
    rl: _Rl = None,
    progress: ProgressKind = "auto",
) -> None:
    """Label reviews, train reward models and policies, compare them.

    Run the same command again to resume an interrupted run.
    """
    from icm_fast.engine.progress import make_progress
    from icm_fast.experiments.assistant.config import AssistantConfig
    from icm_fast.experiments.assistant.report import report_text
    from icm_fast.experiments.assistant.run import run_assistant
    from icm_fast.files import write_atomically

    config = AssistantConfig.from_mappings(
        {"seed": seed, **parse_assignments(assignments or (), None)},
        parse_assignments(rl or (), None),
    )
    folder = output or Path("runs") / f"assistant-{Path(model).name}-seed{seed}"
    report = run_assistant(
        model, output=folder, config=config, progress=make_progress(progress, timed=True)
    )
    text = report_text(report)
    write_atomically(folder / "report.md", text.encode())
    say(text)
    say(f"written to {folder / 'report.md'} and report.json; the policy: {folder}/policy-icm")
