"""The commands ``icm-fast train``: fine-tuning here, all others in their own files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icm_fast.cli.parameters import (
    MODEL_HELP,
    AsJson,
    Assignments,
    Data,
    Limit,
    Model,
    Options,
    ProgressKind,
    ReportTo,
    RunFolder,
    RunModel,
    Seed,
    TrainingAssignments,
    TrainingFile,
)
from icm_fast.cli.settings import read_request, say, say_json, training_settings
from icm_fast.cli.train_dpo import dpo
from icm_fast.cli.train_reward import reward, training_figures
from icm_fast.cli.train_rl import rl
from icm_fast.distributed import start
from icm_fast.errors import InputError
from icm_fast.tracking import Tracking

if TYPE_CHECKING:
    from icm_fast.training.sft import Tuned, TuningConfig
    from icm_fast.types import Dataset, FloatArray, IntArray

train_app = typer.Typer(help="Train on labels, texts and rewards (needs icm-fast\\[train]).")


@train_app.callback()
def _group() -> None:
    start()  # so that all processes hear of it when one of them fails


@train_app.command()
def sft(
    run_folder: RunFolder,
    model: RunModel = None,
    file: TrainingFile = None,
    assignments: TrainingAssignments = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder of the tuned model; RUN/tuning by default.",
            show_default=False,
        ),
    ] = None,
    report_to: ReportTo = None,
    as_json: AsJson = False,
    progress: ProgressKind = "auto",
) -> None:
    """Fine-tune on the labels of a run or a labelling; run it again to resume."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.model import load_model
    from icm_fast.training.sft import fine_tune

    config = _tuning_config(file, assignments)
    given = _given_labels(run_folder, model, with_confidence=config.weights != "none")
    tuned = fine_tune(
        given.dataset,
        given.labels,
        model=load_model(
            given.model,
            dtype=given.dtype,
            device=given.device,
            quantization=config.quantization,
        ),
        config=config,
        confidence=given.confidence,
        output_dir=output or run_folder / "tuning",
        progress=make_progress(progress),
        track=Tracking(report_to or ()),
    )
    _say_tuned(tuned, "labels", as_json)


@train_app.command()
def texts(
    table: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="File with the column text or messages, or a .txt file with one text per line.",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP, show_default=False)],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder of the tuned model.",
            show_default=False,
        ),
    ],
    file: TrainingFile = None,
    assignments: TrainingAssignments = None,
    report_to: ReportTo = None,
    as_json: AsJson = False,
    progress: ProgressKind = "auto",
) -> None:
    """Fine-tune on plain texts or conversations, as a start for a policy."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.training.sft import fine_tune_texts, read_texts

    tuned = fine_tune_texts(
        read_texts(table),
        model=model,
        config=_tuning_config(file, assignments),
        output_dir=output,
        progress=make_progress(progress),
        track=Tracking(report_to or ()),
    )
    _say_tuned(tuned, "texts", as_json)


_IterativeTask = Annotated[
    str,
    typer.Argument(metavar="TASK", help="Task, for example truthfulqa.", show_default=False),
]
_IterativeBatchSize = Annotated[
    int, typer.Option(metavar="N", help="Maximum number of examples per search.")
]
_IterativeOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Folder of the batches; runs/TASK-iterative-seedN by default.",
        show_default=False,
    ),
]
_IterativeTuning = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Change a setting of the fine-tuning; may be repeated.",
        show_default=False,
        rich_help_panel="Settings",
    ),
]


@train_app.command()
def iterative(
    task: _IterativeTask,
    data: Data = None,
    model: Model = None,
    batch_size: _IterativeBatchSize = 64,
    seed: Seed = None,
    limit: Limit = None,
    output: _IterativeOutput = None,
    assignments: Assignments = None,
    tuning: _IterativeTuning = None,
    options: Options = None,
    report_to: ReportTo = None,
    as_json: AsJson = False,
    progress: ProgressKind = "auto",
) -> None:
    """Label in batches, each with the model tuned on earlier ones."""
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
        tuning_config=_tuning_config(None, tuning),
        output_dir=folder,
        progress=make_progress(progress),
        track=Tracking(report_to or ()),
        source=request.source,
    )
    if as_json:
        batches = [
            {"n_examples": len(s.labels), "utility": s.utility, "reason": s.reason}
            for s in result.searches
        ]
        say_json({"batches": batches, **training_figures(result.tuned)})
        return
    for number, found in enumerate(result.searches):
        say(
            f"batch {number + 1}: {len(found.labels)} examples, U = {found.utility:.3f} "
            f"({found.reason})"
        )
    say(_summary(result.tuned))


@dataclass(frozen=True, slots=True)
class _GivenLabels:
    """Examples with labels, and the model that found them."""

    dataset: Dataset
    labels: IntArray
    model: str
    dtype: str = "auto"
    device: str = "auto"
    confidence: FloatArray | None = None


def _given_labels(folder: Path, model: str | None, *, with_confidence: bool) -> _GivenLabels:
    """What a search or a labelling found."""
    from icm_fast.labelling.stored import is_labelling

    if is_labelling(folder):
        from icm_fast.labelling.training_set import training_set

        found = training_set(folder)
        if model is None and found.model is None:
            raise InputError(f"{folder} does not name its model; add --model")
        return _GivenLabels(
            found.dataset,
            found.labels,
            model or str(found.model),
            confidence=found.confidence,
        )
    from icm_fast.runs.finished import read_run

    run = read_run(folder)
    config = run.config
    return _GivenLabels(
        run.dataset,
        run.labels,
        model or run.model,
        config.dtype,
        config.device,
        run.confidence if with_confidence else None,
    )


train_app.command()(dpo)
train_app.command()(reward)
train_app.command()(rl)


def _tuning_config(file: Path | None, assignments: list[str] | None) -> TuningConfig:
    from icm_fast.training.sft import TuningConfig

    return training_settings(TuningConfig, file, assignments)


def _say_tuned(tuned: Tuned, what: str, as_json: bool) -> None:
    if as_json:
        say_json(training_figures(tuned))
    else:
        say(_summary(tuned, what))


def _summary(tuned: Tuned, what: str = "labels") -> str:
    """Losses and where the model is, for people."""
    tenth = max(1, len(tuned.losses) // 10)
    first, last = (_mean(part) for part in (tuned.losses[:tenth], tuned.losses[-tenth:]))
    kept = "" if tuned.best_step is None else f" Kept: the weights of step {tuned.best_step}."
    return (
        f"Tuned on {tuned.n_examples} {what}: {len(tuned.losses)} steps, loss {first:.3f} at the "
        f"start, {last:.3f} at the end, {tuned.n_tokens:,} tokens, {tuned.seconds:.0f} s.{kept}\n"
        f"Model: {tuned.folder} (a folder that --model takes)"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
