"""The commands of ``icm-fast``; each parses, calls one function and prints its result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from icm_fast.cli.assistant import assistant
from icm_fast.cli.experiment import experiment
from icm_fast.cli.export import export
from icm_fast.cli.kernels import tune_kernels
from icm_fast.cli.policy import evaluate_policy_command
from icm_fast.cli.reward import evaluate_reward_command
from icm_fast.cli.settings import Request, read_request
from icm_fast.cli.train import train_app
from icm_fast.errors import InputError
from icm_fast.model.lazy import LazyModel
from icm_fast.runs.provenance import versions
from icm_fast.runs.store import CONFIG_FILE

app = typer.Typer(
    help="Label data with a language model and no supervision.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

Task = Annotated[str | None, typer.Argument(help="Task, for example truthfulqa.")]
Data = Annotated[str | None, typer.Argument(help="File of the data.")]
Model = Annotated[
    str | None,
    typer.Option(help="Hub id, folder, .gguf file, or smollm2 / gemma3-270m."),
]
Preset = Annotated[str | None, typer.Option(help="default, paper or authors-code.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every draw.")]
Limit = Annotated[int | None, typer.Option(help="Most examples.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Run folder.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting: key=value; may be repeated."),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", help="Option of the task: key=value; may be repeated."),
]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a finished run.")]


@app.command("search")
def search_command(
    task: Task = None,
    data: Data = None,
    model: Model = None,
    preset: Preset = None,
    seed: Seed = None,
    limit: Limit = None,
    output: Output = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    options: Options = None,
) -> None:
    """Label the data of a task; an interrupted run goes on when called again."""
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
        output=output,
    )
    typer.echo(_search(request, _model(request)))


def _search(request: Request, model: LazyModel) -> str:
    """Search into the folder of ``request``; return the summary to print."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.engine.search import search
    from icm_fast.evaluation.report import run_report
    from icm_fast.runs.finished import read_run

    dataset = request.source.load_dataset()
    with _resumable(request.folder):
        search(
            dataset,
            model=model,
            config=request.config,
            output_dir=request.folder,
            progress=make_progress(),
            source=request.source,
        )
    return run_report(read_run(request.folder)).rstrip()


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Say how to go on when the user interrupts."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(
            f"icm-fast: interrupted; everything scored so far is in {folder}, run the same command "
            "again to go on",
            err=True,
        )
        raise typer.Exit(130) from None


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="smollm2 or gemma3-270m, or any model.")] = "smollm2",
    seed: Annotated[int, typer.Option(help="Seed of every draw.")] = 0,
    n: Annotated[int, typer.Option(help="Reviews to label.")] = 64,
    n_test: Annotated[int, typer.Option(help="Held-out reviews.")] = 100,
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder.")] = Path("runs/demo"),
) -> None:
    """Label movie reviews without supervision and compare with human raters."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.experiments.demo import demo_text, run_demo

    with _resumable(output):
        result = run_demo(
            model, n=n, seed=seed, output=output, n_test=n_test, progress=make_progress()
        )
    typer.echo(demo_text(result))


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(help="Folder of a run, or a task to search first.")],
    data: Data = None,
    model: Model = None,
    preset: Preset = None,
    seed: Seed = None,
    limit: Limit = None,
    output: Output = None,
    n_test: Annotated[int, typer.Option(help="Held-out examples.")] = 100,
    assignments: Assignments = None,
    options: Options = None,
) -> None:
    """Compare zero-shot, found labels and gold labels on held-out examples."""
    from icm_fast.evaluation.report import comparison_text
    from icm_fast.evaluation.run import evaluate_run
    from icm_fast.runs.finished import read_run

    folder = Path(target)
    if not (folder / CONFIG_FILE).exists():
        if folder.is_dir():
            raise InputError(f"{folder} holds no run (no {CONFIG_FILE}); name a run or a task")
        request = read_request(
            None,
            assignments or (),
            options or (),
            task=target,
            data=data,
            model=model,
            preset=preset,
            seed=seed,
            limit=limit,
            output=output,
        )
        shared = _model(request)
        _search(request, shared)
        folder = request.folder
    else:
        given = {
            "DATA": data,
            "--preset": preset,
            "--seed": seed,
            "--limit": limit,
            "--output": output,
            "--set": assignments,
            "--option": options,
        }
        ignored = [name for name, value in given.items() if value not in (None, [])]
        if ignored:
            raise InputError(
                f"{', '.join(ignored)} would change a search, but {folder} is a finished run; "
                "leave it out, or name a task to search"
            )
    run = read_run(folder)
    loaded = LazyModel(model or run.model, dtype=run.config.dtype, device=run.config.device)
    typer.echo(comparison_text(evaluate_run(run, loaded, n_test=n_test)))


@app.command()
def report(
    run_folder: RunFolder,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Markdown file."),
    ] = None,
) -> None:
    """Summarise a run: labels, moves, cost, least certain labels."""
    from icm_fast.evaluation.report import run_report
    from icm_fast.files import write_atomically
    from icm_fast.runs.finished import read_run

    text = run_report(read_run(run_folder))
    if output is None:
        typer.echo(text.rstrip())
    else:
        write_atomically(output, text.encode())
        typer.echo(f"report written to {output}")


@app.command()
def doctor(
    task: Task = None,
    data: Data = None,
    model: Model = None,
    preset: Preset = None,
    seed: Seed = None,
    limit: Limit = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    options: Options = None,
) -> None:
    """Check model, labels, boundaries and context, and predict tokens and time."""
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
    )
    failed = ""
    for finding in diagnose(request.source.load_dataset, _model(request), request.config):
        typer.echo(f"{'ok  ' if finding.passed else 'FAIL'}  {finding.check}: {finding.detail}")
        failed = failed or ("" if finding.passed else finding.detail)
    if failed:
        raise InputError(failed)


app.command()(assistant)
app.command()(experiment)
app.command()(export)
app.command("evaluate-reward")(evaluate_reward_command)
app.command("evaluate-policy")(evaluate_policy_command)
app.add_typer(train_app, name="train")
app.command()(tune_kernels)


@app.command()
def version() -> None:
    """Print the versions of icm_fast and of what decides its numbers."""
    for name, number in versions().items():
        typer.echo(f"{name} {number}")


def _model(request: Request) -> LazyModel:
    return LazyModel(request.model, dtype=request.config.dtype, device=request.config.device)
