"""Finished runs whose exports are the same everywhere: fixed labels, scores and versions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.runs.finished import FinishedRun, read_run
from icm_fast.tasks.source import TaskSource
from run_fakes import FakeScorer

CLAIMS = ("{braces}", 'it\'s "so" \\ é', "12", "[1, 2]", "a, b", "last")
CLAIM_LABELS = (1, 0, 0, -1, 1, 0)

_QUESTIONS = ("Why?", "How do\nbirds fly?", "What is 2 + 2?", "Who are you?", "Where?")
PAIR_LABELS = (1, 0, 0, 1, 1, 1, 1, -1, 0, 1)
"""First, second, contradicting, half labelled, second."""


def write_claims(path: Path) -> None:
    """A truthfulqa file with two claims per question and held-out ones after them."""
    rows = [
        {
            "question": f"Q{row // 2}?",
            "choice": choice,
            "consistency_id": row // 2,
            "label": row % 2,
        }
        for row, choice in enumerate((*CLAIMS, *(f"held out {k}" for k in range(6))))
    ]
    _write(path, rows)


def write_pairs(path: Path, gold: Sequence[int] | None = None) -> None:
    """An alpaca-preference file, both orders of five pairs; ``gold`` None leaves it out."""
    rows = []
    for pair, question in enumerate(_QUESTIONS):
        texts = (f"answer {pair}a\nin two lines", f"answer {pair}b")
        for one, other in (texts, texts[::-1]):
            row = {"question": question, "choice": one, "choice_2": other, "consistency_id": pair}
            rows.append(row | ({} if gold is None else {"label": gold[len(rows)]}))
    _write(path, rows)


def claims_run(folder: Path) -> FinishedRun:
    """Three questions of truthfulqa, one claim unlabelled, in ``folder / "claims"``."""
    write_claims(folder / "claims.jsonl")
    source = TaskSource("truthfulqa", str(folder / "claims.jsonl"), limit=6, seed=4)
    return fixed_run(folder / "claims", source, CLAIM_LABELS)


def pairs_run(folder: Path, gold: Sequence[int] | None = None) -> FinishedRun:
    """Five pairs of alpaca-preference in ``folder / "pairs"``."""
    write_pairs(folder / "pairs.jsonl", gold)
    return fixed_run(
        folder / "pairs", TaskSource("alpaca-preference", str(folder / "pairs.jsonl")), PAIR_LABELS
    )


def fixed_run(folder: Path, source: TaskSource, labels: Sequence[int]) -> FinishedRun:
    """Search, then put given labels and round scores in place of what was found."""
    dataset = source.load_dataset()
    assert len(dataset) == len(labels)
    icm_fast.search(
        dataset,
        model="/models/fake",
        config=SearchConfig(max_evaluations=3, seed=source.seed),
        output_dir=folder,
        scorer=FakeScorer(len(dataset)),
        source=source,
    )
    set_labels(folder, labels)
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {
        "utility": 12.5,
        "reason": "settled",
        "n_evaluations": 3,
        "concerns": [{"kind": "rival", "text": "another labelling is as good"}],
        "versions": {"python": "3.11.0", "icm-fast": "0.1.0"},
    }
    del summary["digests"]  # of a search's own results
    (folder / "summary.json").write_text(json.dumps(summary))
    return read_run(folder)


def set_labels(folder: Path, labels: Sequence[int]) -> None:
    """Rewrite labels.jsonl of a run; -1 is unlabelled."""
    rows = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    names = yaml.safe_load((folder / "config.yaml").read_text())["run"]["labels"]
    for k, (row, label) in enumerate(zip(rows, labels, strict=True)):
        row["label_index"] = label
        row["label"] = None if label < 0 else names[label]
        row["logprobs"] = [-1.5, -0.25] if label == 1 else [-0.25, -1.5]
        row["margin"] = None if label < 0 else 1.25 + k
        row["confidence"] = None if label < 0 else 0.75
    _write(folder / "labels.jsonl", rows)


def _write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
