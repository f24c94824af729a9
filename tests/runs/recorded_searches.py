"""Five searches whose run folders were recorded at 152facd, before the modules moved into rooms.

``python tests/runs/recorded_searches.py FOLDER`` records them again with the installed icm_fast.
Four have scores from a hash of the labelling, the fifth a table of what SmolLM2 said of reviews.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import icm_fast
from icm_fast import Dataset, SearchConfig, load_task
from icm_fast.config import ADDED_SETTINGS

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "run_folders"
FILES = ("labels.jsonl", "events.jsonl", "config.yaml")


class HashScorer:
    """Log-probabilities from a hash of the labelling, the same on every machine.

    They lie on a grid of 2^-16, so no last bit of a logarithm decides them.
    """

    fingerprint = "hash-1"

    def __init__(self, n_examples: int, n_labels: int) -> None:
        self._shape = (n_examples, n_labels)

    def score(self, labels: Any, queries: Any = None) -> SimpleNamespace:
        labels = np.asarray(labels, "<i4")
        scores = np.empty(self._shape, np.float32)
        for i in range(self._shape[0]):
            others = labels.copy()
            others[i] = -1
            digest = hashlib.sha256(others.tobytes() + i.to_bytes(4, "little")).digest()
            weights = [
                1 + digest[y] + 400 * (i * 7 % 5 % self._shape[1] == y)
                for y in range(self._shape[1])
            ]
            logs = [math.log(w / sum(weights)) for w in weights]
            scores[i] = [round(value * 65536) / 65536 for value in logs]
        return SimpleNamespace(
            scores=scores, n_tokens=10 * self._shape[0] + int((labels >= 0).sum())
        )

    def predict_tokens(self, labels: Any, queries: Any = None) -> int:
        return 10 * self._shape[0] + int((np.asarray(labels) >= 0).sum())


class TableScorer:
    """Scores from a recorded table; a labelling outside it fails."""

    fingerprint = "smollm2-recorded"

    def __init__(self, table: dict[str, Any]) -> None:
        self._table = table

    def score(self, labels: Any, queries: Any = None) -> SimpleNamespace:
        found = self._table[key_of(labels)]
        return SimpleNamespace(
            scores=np.array(found["scores"], np.float32), n_tokens=found["n_tokens"]
        )

    def predict_tokens(self, labels: Any, queries: Any = None) -> int:
        return int(self._table[key_of(labels)]["n_tokens"])


def key_of(labels: Any) -> str:
    return " ".join(str(int(y)) for y in labels)


@dataclass(frozen=True)
class RecordedSearch:
    name: str
    task: str
    limit: int
    config: SearchConfig
    options: dict[str, Any] = field(default_factory=dict)

    def dataset(self) -> Dataset:
        return load_task(self.task, limit=self.limit, seed=3, **self.options)[0]

    def scorer(self, dataset: Dataset) -> Any:
        table = GOLDEN / self.name / "scores.json"
        if table.exists():
            return TableScorer(json.loads(table.read_text()))
        return HashScorer(len(dataset), len(dataset.label_space))

    def run(self, folder: Path) -> None:
        dataset = self.dataset()
        icm_fast.search(
            dataset,
            model="recorded",
            scorer=self.scorer(dataset),
            config=self.config,
            output_dir=folder,
        )


FORMER_DEFAULT: dict[str, Any] = {
    "start": "zero-shot",
    "moves": ("grow", "sweep", "group"),
    "second_opinion": False,
}
"""What made the preset ``default`` then: now the preset ``annealing`` has these values."""

SEARCHES = (
    RecordedSearch("default", "larger-than", 24, SearchConfig(seed=1, **FORMER_DEFAULT)),
    RecordedSearch(
        "paper", "arithmetic", 24, SearchConfig(preset="paper", seed=2, max_iterations=400)
    ),
    RecordedSearch(
        "authors-code",
        "larger-than",
        24,
        # What the preset was then; the settings that are younger had these values.
        SearchConfig(
            preset="authors-code",
            seed=3,
            max_iterations=400,
            cooling_clock="accepted",
            fix_both_false=False,
            **ADDED_SETTINGS,
        ),
    ),
    RecordedSearch(
        "many-moves",
        "sun-poems",
        24,
        SearchConfig(
            seed=4,
            moves=("single", "group", "sweep", "grow"),
            start="random",
            second_opinion=False,
            restarts=2,
            chains=2,
            label_shares=(0.3, 0.7),
            max_evaluations=120,
        ),
    ),
    RecordedSearch("smollm2", "movie-sentiment", 24, SearchConfig(seed=0, **FORMER_DEFAULT)),
)


if __name__ == "__main__":
    for recorded in SEARCHES:
        recorded.run(Path(sys.argv[1]) / recorded.name)
