"""A finished run, found without a model, whose prompts look like templates."""

from __future__ import annotations

import json
from pathlib import Path

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.runs.finished import FinishedRun, read_run
from icm_fast.tasks.source import TaskSource
from run_fakes import FakeScorer

CHOICES = ("{{ 7 * 7 }}", "{% raw %}", "12", 'it\'s "so" \\ é', "[1, 2]", "{# none #}")


def write_templates(path: Path, n_questions: int = 10, swapped: bool = False) -> None:
    """A truthfulqa file, two claims per question; ``swapped`` turns its gold around."""
    rows = [
        {
            "question": f"Question {row // 2}?",
            "choice": CHOICES[row % len(CHOICES)] + f" {row}",
            "consistency_id": row // 2,
            "label": (row % 2) ^ swapped,
        }
        for row in range(2 * n_questions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def finished_run(folder: Path, *, swapped: bool = False) -> FinishedRun:
    """Search 8 of the 20 claims; the data lie beside the run folder ``folder / "a-run"``."""
    write_templates(folder / "data.jsonl", swapped=swapped)
    source = TaskSource("truthfulqa", str(folder / "data.jsonl"), limit=8)
    icm_fast.search(
        source.load_dataset(),
        model="fake",
        config=SearchConfig(max_evaluations=10),
        output_dir=folder / "a-run",
        scorer=FakeScorer(8),
        source=source,
    )
    return read_run(folder / "a-run")
