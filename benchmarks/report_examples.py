"""Runs whose reports are looked at: with simulated scores, so that they take seconds.

`make screenshots` shows them, and `make test-browser` opens them.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.labelling import Labelling, LabelTask, open_table
from icm_fast.labelling.config import LabelConfig
from icm_fast.labelling.evidence import CoreEvidence, decide
from icm_fast.labelling.folder import open_labelling
from icm_fast.labelling.scan import scan_table
from icm_fast.labelling.stored import packed_decision, stored_settings
from icm_fast.types import Dataset, Example, LabelSpace, ScoreArray

NAME = "simulated scores"
_CORE_ROWS = 64


@dataclass(frozen=True)
class Scored:
    """Scores of one labelling and the tokens that they would have taken."""

    scores: ScoreArray
    n_tokens: int


class SimulatedScorer:
    """Prefers a given label for each example, with noise that depends on the whole labelling."""

    fingerprint = "simulated"

    def __init__(self, logits: np.ndarray, noise: float = 0.3) -> None:
        self._logits = logits
        self._noise = noise

    def score(self, labels: Any, queries: Any = None) -> Scored:
        state = np.asarray(labels, "<i4")
        seed = int.from_bytes(hashlib.sha256(state.tobytes()).digest()[:8], "little")
        logits = self._logits + self._noise * np.random.default_rng(seed).normal(
            size=self._logits.shape
        )
        # The more labels agree with what the texts say, the more the others follow.
        followed = (state == self._logits.argmax(axis=1)).mean() if (state >= 0).any() else 0.5
        logits *= 0.6 + 0.8 * followed
        scores = _normalised(logits)
        if queries is not None:
            scores[~np.asarray(queries)] = np.nan
        return Scored(scores, self.predict_tokens(labels, queries))

    def predict_tokens(self, labels: Any, queries: Any = None) -> int:
        return 40 * len(self._logits)


def _normalised(logits: np.ndarray) -> ScoreArray:
    top = logits.max(axis=1, keepdims=True)
    scores = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return scores.astype(np.float32)


def reviews_labelling(folder: Path) -> Path:
    """A labelling of all movie reviews, beside their table with the column ``gold``."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset, gold = icm_fast.load_task("movie-sentiment")
    texts = [e.prompt.removeprefix("Review: ").rpartition("\n")[0] for e in dataset.examples]
    table_file = folder / "reviews.csv"
    with table_file.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("review", "gold"))
        names = ("negative", "positive")
        writer.writerows((text, names[y]) for text, y in zip(texts, gold.tolist(), strict=True))
    task = LabelTask(
        text="review",
        labels=("negative", "positive"),
        template="Review: {review}\nSentiment:",
    )
    table, config = open_table(str(table_file)), LabelConfig()
    scan = scan_table(table, task)
    rng = np.random.default_rng(7)
    sides = np.stack([1.0 - gold, gold], axis=1)
    clear = (0.3 + rng.gamma(2.0, 1.0, size=(len(gold), 1))) * sides

    def view(noise: float) -> ScoreArray:
        return _normalised(clear + noise * rng.normal(size=sides.shape) + (0.8, 0.0))

    with open_labelling(folder / "run") as opened:
        identity = {"data": scan.digest, "n_rows": scan.n_rows, "template": task.template}
        opened.keep_identity(identity)
        cores = [
            _core(opened.core(f"{k:016d}"), k, texts, view(0.7).astype(np.float64), rng)
            for k in range(1, config.cores + 1)
        ]
        plain, views = view(1.1), [view(0.8) for _ in cores]
        decision = decide(
            lambda: [plain],
            [lambda scores=scores: [scores] for scores in views],
            cores,
            known=scan.known,
            per_row=1,
            config=config,
        )
        labelling = Labelling(task, decision, 12_345_678, 1234.5, config)
        opened.write_settings(stored_settings(table, task, config.to_dict()))
        opened.write_decision(packed_decision(decision))
        opened.write_summary(labelling.summary())
    return folder / "run"


def _core(
    folder: Path, k: int, texts: list[str], logits: np.ndarray, rng: np.random.Generator
) -> CoreEvidence:
    rows = np.sort(rng.choice(len(texts), _CORE_ROWS, replace=False)).astype(np.int32)
    examples = tuple(
        Example(f"row-{row}", f"Review: {texts[row]}\nSentiment:") for row in rows.tolist()
    )
    found = icm_fast.search(
        Dataset(examples, LabelSpace((" negative", " positive")), name="classify"),
        model=NAME,
        config=SearchConfig(seed=k),
        output_dir=folder,
        scorer=SimulatedScorer(logits[rows]),
    )
    return CoreEvidence(rows, found.labels, found.scores.astype(np.float64))


def doubtful_search(folder: Path) -> Path:
    """A search that collapsed to one label, with texts twice and some left without a label."""
    words = ("late", "broken", "kind", "fast", "wrong", "fine", "lost", "warm", "slow", "new")
    examples = tuple(
        Example(
            f"ticket-{k}", f"Ticket: the {words[k % 10]} parcel, part {k % 37}\nThe customer is"
        )
        for k in range(60)
    )
    logits = np.random.default_rng(3).normal(size=(60, 2))
    logits[:, 1] += 6.0
    icm_fast.search(
        Dataset(examples, LabelSpace((" happy", " unhappy")), name="tickets"),
        model=NAME,
        # Texts alone are asked only where proposals lean on them.
        config=SearchConfig(preset="paper", prior_weight=0.1, max_iterations=160, seed=1),
        output_dir=folder,
        scorer=SimulatedScorer(logits, noise=1.0),
    )
    return folder
