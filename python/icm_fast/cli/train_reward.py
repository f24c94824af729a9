"""The command ``icm-fast train reward``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from icm_fast.errors import InputError, suggest
from icm_fast.tracking import Tracking

if TYPE_CHECKING:
    from icm_fast.model.loaded import LoadedModel
    from icm_fast.runs.finished import FinishedRun
    from icm_fast.training.config import TuningConfig
    from icm_fast.training.reward import PairSet, TwoStage

FOUND = "icm"
_POOL_LABELS = ("soft", "hard")


PairSource = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="Folder of a finished run, or a file with the columns prompt, chosen, rejected.",
        show_default=False,
    ),
]
LabelSource = Annotated[
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
    source: PairSource,
    model: RunModel = None,
    labels: LabelSource = FOUND,
    pool: _Pool = None,
    pool_labels: _PoolLabels = "soft",
    file: TrainingFile = None,
    assignments: TrainingAssignments = None,
    output: _Output = None,
    report_to: ReportTo = None,
    as_json: AsJson = False,
    progress: ProgressKind = "auto",
) -> None:
    """Train a reward model on labels or pairs; run it again to resume."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.training.reward import RewardConfig, two_stage

    config = training_settings(RewardConfig, file, assignments)
    if pool_labels not in _POOL_LABELS:
        raise InputError(
            f"unknown --pool-labels {pool_labels!r}{suggest(pool_labels, _POOL_LABELS)}"
        )
    with_confidence = "confidence" in (config.weights, config.margin)
    given = pairs_from(source, labels, model, "reward", with_confidence=with_confidence)
    folder = output or given.folder
    done = two_stage(
        given.pairs,
        model=given.load(config),
        output_dir=folder,
        pool=pool,
        config=config,
        soft=pool_labels == "soft",
        progress=make_progress(progress),
        track=Tracking(report_to or ()),
    )
    if as_json:
        final = None if done.final is None else training_figures(done.final)
        say_json({"folder": folder, "initial": training_figures(done.initial), "final": final})
        return
    say(_summary(given.pairs, done, folder))


def training_figures(done: object) -> dict[str, object]:
    """What came out of a training, without its model, as JSON takes it."""
    names = (
        *("folder", "n_examples", "n_pairs", "n_too_long", "n_tokens", "seconds"),
        *("best_step", "best_loss", "losses"),
    )
    return {name: getattr(done, name) for name in names if hasattr(done, name)}


@dataclass(frozen=True, slots=True)
class GivenPairs:
    """Pairs to train on, and what the command line says about their training.

    Attributes:
        pairs: The pairs.
        model: Name of the base.
        dtype: In which it is loaded.
        device: Where to.
        folder: Where the result goes where no other place is named.
    """

    pairs: PairSet
    model: str
    dtype: str
    device: str
    folder: Path

    def load(self, config: TuningConfig) -> LoadedModel:
        """The base, as the settings of its training want it."""
        from icm_fast.model import load_model

        return load_model(
            self.model,
            dtype=self.dtype,
            device=self.device,
            quantization=config.quantization,
        )


def pairs_from(
    source: Path, labels: str, model: str | None, name: str, *, with_confidence: bool = False
) -> GivenPairs:
    """Pairs of a run or file.

    Args:
        source: Folder of a run, or a file.
        labels: Whose labels of a run.
        model: Base that the user named.
        name: Of the folder of the training.
        with_confidence: Whether found labels bring their confidence.

    Raises:
        InputError: They cannot be read, or no model is known.
    """
    from icm_fast.training.reward import read_pairs

    if source.is_dir():
        from icm_fast.runs.finished import read_run

        run = read_run(source)
        inside = source / (name if labels == FOUND else f"{name}-{labels}")
        dtype, device = run.config.dtype, run.config.device
        pairs = _pairs_of(run, labels, with_confidence)
        return GivenPairs(pairs, model or run.model, dtype, device, inside)
    if labels != FOUND:
        raise InputError(
            f"--labels {labels} is for the folder of a run; {source} holds its own labels, so "
            "leave --labels out"
        )
    if model is None:
        raise InputError("no model given; add --model, for example --model smollm2")
    folder = Path("runs") / f"{name}-{source.stem}"
    return GivenPairs(read_pairs(source), model, "auto", "auto", folder)


def _pairs_of(run: FinishedRun, labels: str, with_confidence: bool) -> PairSet:
    from icm_fast.training.reward import pairs_of_run

    if labels == FOUND:
        return pairs_of_run(run, with_confidence=with_confidence)
    from icm_fast.training.reward.human_pairs import human_pairs

    return human_pairs(run, labels)


def _summary(pairs: PairSet, done: TwoStage, folder: Path) -> str:
    lines = [f"{len(pairs.pairs)} pairs" + left_out(pairs)]
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
        + ("" if last.best_step is None else f" Kept: the weights of step {last.best_step}.")
    )
    lines.append(f"Reward model: {folder} (for `icm-fast evaluate reward`)")
    return "\n".join(lines)


def left_out(pairs: PairSet) -> str:
    """What did not become pairs, and why."""
    if not pairs.left_out:
        return ""
    return "; left out: " + ", ".join(f"{n} x {why}" for why, n in pairs.left_out.items())
