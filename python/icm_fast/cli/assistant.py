"""The command ``icm-fast assistant``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icm_fast.cli.settings import parse_assignments


def assistant(
    model: Annotated[
        str, typer.Option(help="Hub id, folder, .gguf file, or smollm2 / gemma3-270m.")
    ] = "smollm2",
    seed: Annotated[int, typer.Option(help="Seed of every stage.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Size of a stage: key=value, for example n=64."),
    ] = None,
    rl: Annotated[
        list[str] | None,
        typer.Option("--rl", help="Setting of the policies: key=value; may be repeated."),
    ] = None,
) -> None:
    """Labels, reward models, policies and their comparison on movie reviews, in one go.

    Called again it goes on where it stopped.
    """
    from icm_fast.engine.progress import make_progress
    from icm_fast.experiments.assistant.report import report_text
    from icm_fast.experiments.assistant.run import AssistantConfig, run_assistant
    from icm_fast.files import write_atomically

    config = AssistantConfig.from_mappings(
        {"seed": seed, **parse_assignments(assignments or (), None)},
        parse_assignments(rl or (), None),
    )
    folder = output or Path("runs") / f"assistant-{Path(model).name}-seed{seed}"
    report = run_assistant(model, output=folder, config=config, progress=make_progress(timed=True))
    text = report_text(report)
    write_atomically(folder / "report.md", text.encode())
    typer.echo(text)
    typer.echo(
        f"written to {folder / 'report.md'} and report.json; the policy: {folder}/policy-icm"
    )
