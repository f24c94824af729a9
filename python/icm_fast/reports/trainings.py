"""The report of a training: the figures of its steps, on the examples and on held-out ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from icm_fast.engine.progress import clock
from icm_fast.files import is_file
from icm_fast.files.fields import Fields, read_object
from icm_fast.reports.content import (
    Block,
    Facts,
    Folded,
    Lines,
    Paragraph,
    Report,
    Section,
    Series,
    Tile,
)
from icm_fast.reports.searches import setting
from icm_fast.training.step_log import STEPS_FILE, Line, read_steps

RECORDS = ("tuning.json", "reward.json")
"""What trainings write about themselves, in modules that import torch, which no report needs."""

_HELD_OUT = "eval_"
_TITLES = {
    "loss": "Loss",
    "accuracy": "Accuracy",
    "margin": "Margin between the better and the worse text",
    "learning_rate": "Learning rate",
    "grad_norm": "Norm of the gradients",
    "reward": "Reward",
    "kl": "Divergence from the start",
    "kl_weight": "Weight of the divergence",
}
_MOST_FIGURES = 12
_MARKED = 40


def is_training(folder: Path) -> bool:
    """Whether a folder is one of a training that recorded its steps."""
    return folder.is_dir() and is_file(folder / STEPS_FILE)


def training_report(folder: Path) -> Report:
    """The report of a training, finished or not.

    Args:
        folder: Its folder, with ``steps.jsonl``.

    Raises:
        InputError: The folder is damaged.
    """
    steps = read_steps(folder)
    record = _record(folder)
    identity = record.inner("identity").content if "identity" in record else {}
    finished = "losses" in record
    n_steps = int(max((line.get("step", 0.0) for line in steps), default=0))
    figures = _figures(steps)
    course: tuple[Block, ...] = figures or (Paragraph("The training recorded no steps yet."),)
    ended = "It is finished." if finished else "It is not finished: these are the steps so far."
    return Report(
        kind="training",
        title=f"Training in {folder.resolve().name}",
        lead=f"{n_steps:,} steps. {ended}",
        tiles=_tiles(n_steps, steps, record),
        sections=(
            Section("steps", "The steps", course),
            Section("settings", "Settings and versions", _settings(folder, identity)),
        ),
    )


def _record(folder: Path) -> Fields:
    """What the training wrote about itself, beside its steps."""
    for name in RECORDS:
        if is_file(folder / name):
            return read_object(folder / name, f"delete {folder} and train again")
    return Fields({}, str(folder), "train again")


def _tiles(n_steps: int, steps: Sequence[Line], record: Fields) -> tuple[Tile, ...]:
    tiles = [Tile("steps", f"{n_steps:,}")]
    losses = [line["loss"] for line in steps if "loss" in line]
    if losses:
        last = losses[-max(1, len(losses) // 10) :]
        note = "mean of the last tenth of the steps"
        tiles.append(Tile("loss", f"{sum(last) / len(last):.3f}", note))
    best, seconds = record.optional_number("best_loss"), record.optional_number("seconds", 0)
    if best is not None:
        step = record.integer("best_step")
        tiles.append(Tile("best held-out loss", f"{best:.3f}", f"after step {step:,}"))
    if seconds is not None:
        tiles.append(Tile("time", clock(seconds)))
    return tuple(tiles)


def _figures(steps: Sequence[Line]) -> tuple[Lines, ...]:
    """One figure for each kind of number, with those of held-out examples beside it."""
    names = dict.fromkeys(
        name.removeprefix(_HELD_OUT) for line in steps for name in line if name != "step"
    )
    found: list[Lines] = []
    for name in list(names)[:_MOST_FIGURES]:
        lines = tuple(
            Series(told, points, markers=len(points) <= _MARKED and key != name)
            for key, told in ((name, "training"), (_HELD_OUT + name, "held out"))
            if (points := _points(steps, key))
        )
        title = _TITLES.get(name, name.replace("_", " ").capitalize())
        described = ", ".join(
            f"{line.name} from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}"
            for line in lines
        )
        key = f"step-{len(found) + 1}"  # names of others may hold anything
        description = f"{title} over the steps: {described}."
        found.append(Lines(key, title, description, "step", title.lower(), lines))
    return tuple(found)


def _points(steps: Sequence[Line], key: str) -> tuple[tuple[float, float], ...]:
    return tuple((line.get("step", 0.0), line[key]) for line in steps if key in line)


def _settings(folder: Path, identity: Mapping[str, object]) -> tuple[Block, ...]:
    config = identity.get("config")
    settings = config if isinstance(config, Mapping) else {}
    rest = {key: value for key, value in identity.items() if key != "config"}
    blocks: list[Block] = [Facts((("Folder", folder.resolve().name),))]
    for title, content in (("All settings", settings), ("Data, model and versions", rest)):
        if content:
            items = tuple((str(name), setting(value)) for name, value in content.items())
            blocks.append(Folded(title, (Facts(items),)))
    return tuple(blocks)
