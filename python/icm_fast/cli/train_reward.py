"""The command ``icm-fast train reward``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icm_fast.cli.parameters import ProgressKind, RunModel, TrainingAssignments
from icm_fast.cli.settings import parse_assignments, say
from icm_fast.errors import InputError, suggest

if TYPE_CHECKING:
    from icm_fast.runs.finished import FinishedRun
    from icm_fast.training.reward import PairSet, TwoStage

FOUND = "icm"
_POOL_LABELS = ("soft", "hard")


_Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="Folder of a finished run, or a file with the columns prompt, chosen, rejected.",
        show_default=False,
    ),
]
_Labels = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Labels of a run: icm (the found ones), or gold or crowd (human ones).",
    ),
]
_Pool = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="JSONL that the first model labels to train the final one on: prompt, "
        "response_1, response_2.",
        show_default=False,
    ),
]
_PoolLabels = Annotated[
    str,
    typer.Option(
        metavar="KIND",
        help="Train on the first model's probabilities (soft) or choices (hard).",
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Folder of the reward model; by default RUN/reward, or runs/reward-NAME for a file.",
        show_default=False,
    ),
]


def reward(
    source: _Source,
    model: RunModel = None,
    labels: _Labels = FOUND,
    pool: _Pool = None,
    pool_labels: _PoolLabels = "soft",
    assignments: TrainingAssignments = None,
    output: _Output = None,
    progress: ProgressKind = "auto",
) -> None:
    """Train a reward model on labels or pairs; run it again to resume."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.model import load_model
    from icm_fast.training.reward import RewardConfig, read_pairs, two_stage

    config = RewardConfig.from_mapping(parse_assignments(assignments or (), None))
    if pool_labels not in _POOL_LABELS:
        raise InputError(
            f"unknown --pool-labels {pool_labels!r}{suggest(pool_labels, _POOL_LABELS)}"
        )
    dtype = device = "auto"
    if source.is_dir():
        from icm_fast.runs.finished import read_run

        run = read_run(source)
        pairs = _pairs_of(run, labels)
        model = model or run.model
        dtype, device = run.config.dtype, run.config.device
        name = "reward" if labels == FOUND else f"reward-{labels}"
        folder = output or source / name
    else:
        if labels != FOUND:
            raise InputError(
                f"--labels {labels} is for the folder of a run; {source} holds its own labels, so "
                "leave --labels out"
            )
        if model is None:
            raise InputError("no model given; add --model, for example --model smollm2")
        pairs = read_pairs(source)
        folder = output or Path("runs") / f"reward-{source.stem}"
    done = two_stage(
        pairs,
        model=load_model(model, dtype=dtype, device=device),
        output_dir=folder,
        pool=pool,
        config=config,
        soft=pool_labels == "soft",
        progress=make_progress(progress),
    )
    say(_summary(pairs, done, folder))


def _pairs_of(run: FinishedRun, labels: str) -> PairSet:
    from icm_fast.training.reward import pairs_of_run

    if labels == FOUND:
        return pairs_of_run(run)
    from icm_fast.training.reward.human_pairs import human_pairs

    return human_pairs(run, labels)


def _summary(pairs: PairSet, done: TwoStage, folder: Path) -> str:
    lines = [f"{len(pairs.pairs)} pairs" + _left_out(pairs)]
    if done.pool is not None:
        lines.append(
            f"Pool: {done.pool.n_rows} rows labelled by the initial model, {done.pool.n_skipped} "
            f"skipped: {done.pool.path}"
        )
    last = done.final or done.initial
    too_long = f", {last.n_too_long} left out as too long" if last.n_too_long else ""
    lines.append(
        f"Trained on {last.n_pairs} pairs{too_long}: {len(last.losses)} steps, loss "
        f"{last.losses[0]:.3f} at the start, {last.losses[-1]:.3f} at the end, "
        f"{last.seconds:.0f} s."
    )
    lines.append(f"Reward model: {folder} (for `icm-fast evaluate reward`)")
    return "\n".join(lines)


def _left_out(pairs: PairSet) -> str:
    if not pairs.left_out:
        return ""
    return "; left out: " + ", ".join(f"{n} x {why}" for why, n in pairs.left_out.items())
