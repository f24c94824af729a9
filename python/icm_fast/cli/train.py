"""The commands ``icm-fast train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icm_fast.cli.reward import reward
from icm_fast.cli.rl import rl
from icm_fast.cli.settings import parse_assignments, read_request, say
from icm_fast.distributed import start

if TYPE_CHECKING:
    from icm_fast.training.sft import Tuned, TuningConfig

train_app = typer.Typer(help="Train models on labels, texts and rewards (needs icm-fast[train]).")

ModelName = Annotated[
    str | None,
    typer.Option(help="Hub id, folder, .gguf file, or smollm2 / gemma3-270m."),
]


@train_app.callback()
def _group() -> None:
    """Train models on labels, texts and rewards (needs icm-fast[train])."""
    start()  # so that all processes hear of it when one of them fails


train_app.command()(reward)
train_app.command()(rl)


@train_app.command()
def sft(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    model: ModelName = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of the fine-tuning: key=value; may be repeated."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder; by default `tuning` in that of the run."),
    ] = None,
) -> None:
    """Tune on the labels of a run; an interrupted training goes on when called again."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.model import load_model
    from icm_fast.runs.finished import read_run
    from icm_fast.training.sft import fine_tune

    config = _tuning_config(assignments)
    run = read_run(run_folder)
    tuned = fine_tune(
        run.dataset,
        run.labels,
        model=load_model(model or run.model, dtype=run.config.dtype, device=run.config.device),
        config=config,
        output_dir=output or run_folder / "tuning",
        progress=make_progress(),
    )
    say(_summary(tuned))


@train_app.command()
def texts(
    file: Annotated[
        str, typer.Argument(help="File with the column text, or .txt with one on each line.")
    ],
    model: Annotated[str, typer.Option(help="Hub id, folder, .gguf file, smollm2 / gemma3-270m.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of the fine-tuning: key=value; may be repeated."),
    ] = None,
) -> None:
    """Tune on plain texts, so that a policy begins with such ones; called again it goes on."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.model import load_model
    from icm_fast.tasks.rows import read_column
    from icm_fast.training.sft import fine_tune_texts

    tuned = fine_tune_texts(
        read_column(file, "text"),
        model=load_model(model),
        config=_tuning_config(assignments),
        output_dir=output,
        progress=make_progress(),
    )
    say(_summary(tuned, "texts"))


@train_app.command()
def iterative(
    task: Annotated[str, typer.Argument(help="Task, for example truthfulqa.")],
    data: Annotated[str | None, typer.Argument(help="File of the data.")] = None,
    model: ModelName = None,
    batch_size: Annotated[int, typer.Option(help="Most examples in one search.")] = 64,
    seed: Annotated[int | None, typer.Option(help="Seed of every draw.")] = None,
    limit: Annotated[int | None, typer.Option(help="Most examples.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of the searches: key=value; may be repeated."),
    ] = None,
    tuning: Annotated[
        list[str] | None,
        typer.Option(help="Setting of the fine-tunings: key=value; may be repeated."),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", help="Option of the task: key=value; may be repeated."),
    ] = None,
) -> None:
    """Label batch by batch, each with the model tuned on the batches before it."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.training.sft import iterate

    request = read_request(
        None,
        assignments or (),
        options or (),
        task=task,
        data=data,
        model=model,
        seed=seed,
        limit=limit,
    )
    folder = output or Path("runs") / f"{task}-iterative-seed{request.config.seed}"
    result = iterate(
        request.source.load_dataset(),
        model=request.model,
        batch_size=batch_size,
        search_config=request.config,
        tuning_config=_tuning_config(tuning),
        output_dir=folder,
        progress=make_progress(),
        source=request.source,
    )
    for number, found in enumerate(result.searches):
        typer.echo(
            f"batch {number + 1}: {len(found.labels)} examples, U = {found.utility:.3f} "
            f"({found.reason})"
        )
    typer.echo(_summary(result.tuned))


def _tuning_config(assignments: list[str] | None) -> TuningConfig:
    from icm_fast.training.sft import TuningConfig

    return TuningConfig.from_mapping(parse_assignments(assignments or (), None))


def _summary(tuned: Tuned, what: str = "labels") -> str:
    """Losses and where the model is, for people."""
    tenth = max(1, len(tuned.losses) // 10)
    first, last = (_mean(part) for part in (tuned.losses[:tenth], tuned.losses[-tenth:]))
    return (
        f"Tuned on {tuned.n_examples} {what}: {len(tuned.losses)} steps, loss {first:.3f} at the "
        f"start, {last:.3f} at the end, {tuned.n_tokens:,} tokens, {tuned.seconds:.0f} s.\n"
        f"Model: {tuned.folder} (a folder that --model takes)"
    )


def _mean(values: Any) -> float:
    return float(sum(values) / len(values))
