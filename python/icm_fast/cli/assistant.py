"""The command ``icm-fast assistant``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icm_fast.cli.parameters import MODEL_HELP, AsJson, ProgressKind, ReportTo
from icm_fast.cli.settings import parse_assignments, say, say_json
from icm_fast.tracking import Tracking

if TYPE_CHECKING:
    from icm_fast.experiments.assistant.config import AssistantConfig
    from icm_fast.experiments.assistant.documents import AssistantReport
    from icm_fast.types import Reporter

_Model = Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP)]
_Seed = Annotated[int, typer.Option(metavar="N", help="Seed of every stage.")]
_Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...",
        help="Several seeds one after the other, for example 0,1,2, and intervals over them.",
        show_default=False,
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Folder of the results; runs/assistant-MODEL-seedN by default, and "
        "runs/assistant-MODEL for several seeds.",
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
    seeds: _Seeds = None,
    output: _Output = None,
    assignments: _Assignments = None,
    rl: _Rl = None,
    report_to: ReportTo = None,
    as_json: AsJson = False,
    progress: ProgressKind = "auto",
) -> None:
    """Label reviews, train reward models and policies, compare them.

    Run the same command again to resume an interrupted run.
    """
    from icm_fast.engine.progress import make_progress
    from icm_fast.experiments.assistant.config import AssistantConfig
    from icm_fast.experiments.assistant.run import run_assistant

    def config_of(number: int) -> AssistantConfig:
        return AssistantConfig.from_mappings(
            {"seed": number, **parse_assignments(assignments or (), None)},
            parse_assignments(rl or (), None),
        )

    name = f"assistant-{Path(model).name}"
    shown, track = make_progress(progress, timed=True), Tracking(report_to or ())
    if seeds is not None:
        _several(model, seeds, output or Path("runs") / name, config_of, shown, track, as_json)
        return
    folder = output or Path("runs") / f"{name}-seed{seed}"
    report = run_assistant(
        model, output=folder, config=config_of(seed), progress=shown, track=track
    )
    text = _write_report(folder, report)
    if as_json:
        say_json(report)
        return
    say(text)
    say(f"written to {folder / 'report.md'} and report.json; the policy: {folder}/policy-icm")


def _several(
    model: str,
    seeds: str,
    folder: Path,
    config_of: Callable[[int], AssistantConfig],
    shown: Reporter,
    track: Tracking,
    as_json: bool,
) -> None:
    """Run every seed, and print what they say together."""
    from icm_fast.experiments.assistant.report import seeds_text
    from icm_fast.experiments.assistant.seeds import SEEDS_FILE, parse_seeds, run_seeds
    from icm_fast.files import write_atomically

    numbers = parse_seeds(seeds)
    for number in numbers:
        config_of(number)  # refused before the first seed has run
    report = run_seeds(
        model,
        numbers,
        output=folder,
        config_of=config_of,
        after_each=_write_report,
        progress=shown,
        track=track,
    )
    text = seeds_text(report)
    write_atomically(folder / "seeds.md", text.encode())
    if as_json:
        say_json(report)
        return
    say(text)
    say(f"written to {folder / 'seeds.md'} and {SEEDS_FILE}; each seed: {folder}/seedN")


def _write_report(folder: Path, report: AssistantReport) -> str:
    """Write ``report.md``; returns its text."""
    from icm_fast.experiments.assistant.report import report_text
    from icm_fast.files import write_atomically

    text = report_text(report)
    write_atomically(folder / "report.md", text.encode())
    return text
