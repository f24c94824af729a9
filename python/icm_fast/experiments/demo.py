"""The demonstration: label movie reviews without supervision, then compare with gold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icm_fast.config import SearchConfig
from icm_fast.engine.search import search
from icm_fast.evaluation.report import (
    DEMO_FILE,
    comparison_text,
    concern_parts,
    cost_text,
    verdict_parts,
)
from icm_fast.evaluation.run import evaluate_run
from icm_fast.model.lazy import LazyModel
from icm_fast.runs.finished import FinishedRun, read_run
from icm_fast.tasks.source import TaskSource
from icm_fast.tracking import TrackLike
from icm_fast.types import Reporter

MAX_CHARS = 60
"""Reviews of the demonstration are short, so that it takes minutes on two cores."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The finished run of the demonstration and its comparison with gold."""

    run: FinishedRun
    comparison: dict[str, Any]


def demo_source(n: int, seed: int) -> TaskSource:
    """Reviews to search; the held-out ones come from the split ``test``."""
    options = {"split": "search", "max_chars": MAX_CHARS}
    return TaskSource("movie-sentiment", limit=n, seed=seed, options=options)


def run_demo(
    model: str,
    *,
    n: int,
    seed: int,
    output: Path,
    n_test: int = 100,
    progress: Reporter | None = None,
    track: TrackLike = None,
) -> DemoResult:
    """Search, then evaluate; an interrupted run resumes.

    ``track`` is called with each step of the search, or names trackers.

    Raises:
        InputError: Model or data are missing, or the folder holds another run.
    """
    source, config = demo_source(n, seed), SearchConfig(seed=seed)
    loaded = LazyModel(model, dtype=config.dtype, device=config.device)
    search(
        source.load_dataset(),
        model=loaded,
        config=config,
        output_dir=output,
        progress=progress,
        source=source,
        track=track,
    )
    run = read_run(output)
    return DemoResult(run, evaluate_run(run, loaded, n_test=n_test, file_name=DEMO_FILE))


def demo_text(result: DemoResult) -> str:
    """The table that the demonstration prints."""
    run = result.run
    headline = f"{run.dataset.name}, {len(run.dataset)} reviews, {run.model}"
    return "\n\n".join(
        [
            headline,
            comparison_text(result.comparison),
            *verdict_parts(run.summary),
            *concern_parts(run.summary),
            f"Search: {cost_text(run.summary)}.\nRun folder: {run.folder}",
        ]
    )
