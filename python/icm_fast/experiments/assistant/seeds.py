"""The assistant with several seeds, and what they say together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from icm_fast.config import check_number
from icm_fast.engine.progress import Quiet
from icm_fast.errors import InputError, shown
from icm_fast.evaluation.metrics import seeds_interval
from icm_fast.experiments.assistant.config import AssistantConfig
from icm_fast.experiments.assistant.documents import (
    AssistantReport,
    SeedsFigure,
    SeedsReport,
)
from icm_fast.experiments.assistant.run import run_assistant
from icm_fast.experiments.assistant.stages import BOUTS, GOLD, HUMAN, ICM, START
from icm_fast.files import write_atomically
from icm_fast.files.fields import Fields, read_object_lines
from icm_fast.model.loaded import ModelSpec
from icm_fast.tracking import Part, TrackLike, tracked
from icm_fast.types import FloatArray, Reporter

SEEDS_FILE = "seeds.json"
_POINTS = {"a": 1.0, "tie": 0.5, "b": 0.0}
_FIX = "delete it and run the command again"


def parse_seeds(text: str) -> list[int]:
    """Seeds from ``0,1,2``.

    Raises:
        InputError: Fewer than two, one twice, or what is not a seed.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise InputError(f"--seeds is {shown(text)}; write integers with commas, such as 0,1,2")
    seeds = [int(part[:20]) for part in parts]
    for seed in seeds:
        check_number("seed", seed, 0, 2**32 - 1)
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise InputError(
            f"--seeds is {shown(text)}; name two or more different seeds, or one with --seed"
        )
    return seeds


def run_seeds(
    model: ModelSpec,
    seeds: Sequence[int],
    *,
    output: Path,
    config_of: Callable[[int], AssistantConfig],
    after_each: Callable[[Path, AssistantReport], object] = lambda folder, report: None,
    progress: Reporter | None = None,
    track: TrackLike = None,
) -> SeedsReport:
    """Run the assistant with every seed, each in its folder ``seedN``, and write ``seeds.json``.

    A seed that is finished is not repeated.

    Args:
        model: Same as in :func:`run_assistant`.
        seeds: Two or more, all different.
        output: Folder of the seeds.
        config_of: Sizes and settings of a seed.
        after_each: Called with the folder and the report of each seed.
        progress: Same as in :func:`run_assistant`.
        track: Same as in :func:`run_assistant`; each stream begins with ``seedN/``.

    Returns:
        The content of ``seeds.json``.

    Raises:
        InputError: Same as in :func:`run_assistant`.
    """
    reports = []
    folders = [output / f"seed{seed}" for seed in seeds]
    settings = {"seeds": ",".join(map(str, seeds))}
    with (
        progress or Quiet() as reporter,
        tracked(track, output, "assistant", settings, reporter.warn) as tracking,
    ):
        for seed, folder in zip(seeds, folders, strict=True):
            reporter.say(f"seed {seed}")
            report = run_assistant(
                model,
                output=folder,
                config=config_of(seed),
                progress=reporter,
                track=Part(tracking, folder.name),
            )
            after_each(folder, report)
            reports.append(report)
    report_of_all = summarise(seeds, reports, folders)
    write_atomically(output / SEEDS_FILE, (json.dumps(report_of_all, indent=1) + "\n").encode())
    return report_of_all


def summarise(
    seeds: Sequence[int], reports: Sequence[AssistantReport], folders: Sequence[Path]
) -> SeedsReport:
    """What the reports of several seeds say together, with intervals over seeds and prompts.

    Raises:
        InputError: A file of samples is missing or damaged.
    """
    rows = {
        bout: [
            read_object_lines(folder / f"{bout[0]}-against-{bout[1]}.samples.jsonl", _FIX)
            for folder in folders
        ]
        for bout in BOUTS
    }
    points = {bout: [_points(part) for part in parts] for bout, parts in rows.items()}
    prompts = [[line.text("prompt") for line in part] for part in rows[ICM, START]]
    thresholds = [report["positive"]["threshold"] for report in reports]
    positive: dict[str, SeedsFigure] = {}
    for bout in (b for b in BOUTS if START in b):
        for side, name in zip("ab", bout, strict=True):
            above = [
                np.array([line.number(f"score_{side}") > edge for line in part], np.float64)
                for part, edge in zip(rows[bout], thresholds, strict=True)
            ]
            positive[name] = _over_seeds(above, prompts)
    differences = {
        f"{ICM} minus {other}": _over_seeds(
            [one - two for one, two in zip(points[ICM, START], points[other, START], strict=True)],
            prompts,
        )
        for other in (GOLD, HUMAN)
    }
    return {
        "model": reports[0]["model"],
        "seeds": list(seeds),
        "agreement": [report["search"]["agreement"] for report in reports],
        "reward_models": {
            name: [report["reward_models"][name]["final"]["value"] for report in reports]
            for name in reports[0]["reward_models"]
        },
        "positive": {name: positive[name] for name in (START, ICM, GOLD, HUMAN)},
        "win_rates": {
            " against ".join(bout): _over_seeds(parts, prompts) for bout, parts in points.items()
        },
        "differences": differences,
    }


def _points(rows: Sequence[Fields]) -> FloatArray:
    """1 where the first policy won, 0 where the second one did, 0.5 for a tie; ``[n]``."""
    return np.array([_POINTS[row.text("outcome")] for row in rows], dtype=np.float64)


def _over_seeds(values: Sequence[FloatArray], prompts: Sequence[Sequence[str]]) -> SeedsFigure:
    low, high = seeds_interval(values, prompts)
    means = [float(part.mean()) for part in values]
    return {"value": float(np.mean(means)), "low": low, "high": high, "seeds": means}
