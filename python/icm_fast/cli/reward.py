"""The commands ``icm-fast train reward`` and ``icm-fast evaluate-reward``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icm_fast.cli.settings import parse_assignments, say
from icm_fast.errors import InputError, suggest

if TYPE_CHECKING:
    from icm_fast.runs.finished import FinishedRun
    from icm_fast.training.reward import PairSet, TwoStage

FOUND = "icm"
_POOL_LABELS = ("soft", "hard")


def reward(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder of a finished run, or a file with the columns prompt, chosen, rejected."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Hub id, folder, .gguf file, or smollm2 / gemma3-270m."),
    ] = None,
    pool: Annotated[
        Path | None,
        typer.Option(help="JSONL to label with the first model: prompt, response_1, response_2."),
    ] = None,
    pool_labels: Annotated[
        str, typer.Option(help="Train on the first model's probabilities (soft) or choices (hard).")
    ] = "soft",
    labels: Annotated[
        str,
        typer.Option(help="Of a run: icm (found), or gold or crowd for a human-supervised twin."),
    ] = FOUND,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of the trainings: key=value; may be repeated."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder; by default `reward` in that of the run."),
    ] = None,
) -> None:
    """Train a reward model on found labels or a file; called again it goes on."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.model import load_model
    from icm_fast.training.reward import RewardConfig, read_pairs, two_stage

    config = RewardConfig.from_mapping(parse_assignments(assignments or (), None))
    if pool_labels not in _POOL_LABELS:
        raise InputError(
            f"unknown --pool-labels {pool_labels!r}{suggest(pool_labels, _POOL_LABELS)}"
        )
    precision: dict[str, Any] = {}
    if source.is_dir():
        from icm_fast.runs.finished import read_run

        run = read_run(source)
        pairs = _pairs_of(run, labels)
        model = model or run.model
        precision = {"dtype": run.config.dtype, "device": run.config.device}
        name = "reward" if labels == FOUND else f"reward-{labels}"
        folder = output or source / name
    else:
        if labels != FOUND:
            raise InputError(
                f"--labels {labels} is for the folder of a run; {source} has labels of its own"
            )
        if model is None:
            raise InputError("no model given; add --model, for example --model smollm2")
        pairs = read_pairs(source)
        folder = output or Path("runs") / f"reward-{source.stem}"
    done = two_stage(
        pairs,
        model=load_model(model, **precision),
        output_dir=folder,
        pool=pool,
        config=config,
        soft=pool_labels == "soft",
        progress=make_progress(),
    )
    say(_summary(pairs, done, folder))


def evaluate_reward_command(
    reward_model: Annotated[Path, typer.Argument(help="Folder that `train reward` wrote.")],
    data: Annotated[
        str, typer.Argument(help="File with the columns prompt, chosen, rejected, subset.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="JSON file, beside it Markdown; by default evaluation-NAME.json in the folder.",
        ),
    ] = None,
) -> None:
    """Accuracy of a reward model on pairs, by subset and as RewardBench's score."""
    from icm_fast.files import write_atomically
    from icm_fast.training.reward import evaluate_reward, load_reward_model

    result = evaluate_reward(load_reward_model(reward_model), data)
    path = output or reward_model / f"evaluation-{Path(data).stem}.json"
    if path.suffix != ".json":
        raise InputError(f"--output {path} must end in .json; the Markdown file stands beside it")
    write_atomically(path, (json.dumps(result.to_dict(), indent=2) + "\n").encode())
    write_atomically(path.with_suffix(".md"), result.to_markdown().encode())
    typer.echo(result.to_markdown().rstrip())
    typer.echo(f"\nwritten to {path} and {path.with_suffix('.md').name}")


def _pairs_of(run: FinishedRun, labels: str) -> PairSet:
    from icm_fast.training.reward import pairs_of_run

    if labels == FOUND:
        return pairs_of_run(run)
    from icm_fast.training.reward.twin import twin_pairs

    return twin_pairs(run, labels)


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
    lines.append(f"Reward model: {folder} (for `icm-fast evaluate-reward`)")
    return "\n".join(lines)


def _left_out(pairs: PairSet) -> str:
    if not pairs.left_out:
        return ""
    return "; left out: " + ", ".join(f"{n} x {why}" for why, n in pairs.left_out.items())
