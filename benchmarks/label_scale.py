"""All work of a labelling but the model's: time and memory for many rows, with made-up scores.

    python benchmarks/label_scale.py --rows 1000000

A table is written, labelled by the code that users run, and written again with its labels. In the
place of the model stands a stub that draws scores, and in that of its tokenizer one that counts
bytes; how long tokenizers and models take is what `benchmarks/label_cost.py` counts.
"""

from __future__ import annotations

import argparse
import cProfile
import csv
import json
import pstats
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import icm_fast.scoring.factory
from icm_fast.labelling import LabelConfig, LabelTask, label_rows, open_table
from icm_fast.labelling.api import write_labelled
from icm_fast.model.lazy import LazyModel
from icm_fast.scoring.protocol import Scored
from icm_fast.types import BoolArray, Dataset, IntArray

WORDS = ("a", "film", "with", "some", "music", "and", "people", "who", "talk", "at", "length")


def main() -> None:
    """Label, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--labels", type=int, default=2)
    parser.add_argument("--shares", action="store_true", help="give the shares of the labels")
    parser.add_argument("--profile", action="store_true", help="print the slowest functions")
    arguments = parser.parse_args()
    icm_fast.scoring.factory.make_scorer = _stub_scorer  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.csv"
        write_table(path, arguments.rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        profile = cProfile.Profile()
        started = time.process_time()
        if arguments.profile:
            profile.enable()
        label(path, arguments.labels, arguments.shares)
        profile.disable()
        found = {
            "rows": arguments.rows,
            "labels": arguments.labels,
            "cpu_seconds": round(time.process_time() - started, 1),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "peak_mib_before": before // 1024,
            "files_mib": sum(p.stat().st_size for p in Path(scratch).rglob("*.*")) >> 20,
        }
    print(json.dumps(found))
    if arguments.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)


def write_table(path: Path, n_rows: int) -> None:
    """Texts of two kinds, all different."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "review"])
        for i in range(n_rows):
            word = WORDS[i % len(WORDS)]
            writer.writerow([i, f"a {('dull', 'good')[i % 2]} film with {word}, part {i}"])


def label(path: Path, n_labels: int, with_shares: bool) -> None:
    """Label a table and write it with its labels."""
    labels = tuple(f"label{k}" for k in range(n_labels))
    task = LabelTask(text="review", labels=labels, template="Review: {review}\nSentiment:")
    config = LabelConfig(shares=(1 / n_labels,) * n_labels if with_shares else ())
    table = open_table(path)
    labelling = label_rows(
        table, task, model=StubModel("stub"), config=config, folder=path.with_name("run")
    )
    write_labelled(table, labelling, path.with_name("labelled.csv"))


class StubModel(LazyModel):
    """Stands where a model would be loaded."""

    def load(self):  # type: ignore[no-untyped-def]
        """Everything that a labelling asks of a model but its scores."""
        return SimpleNamespace(
            name="stub",
            fingerprint="stub",
            computation="stub",
            dtype_name="float32",
            max_context=8192,
            tokenizer=_tokenize,
        )


def _tokenize(text: str | list[str], **_: object) -> dict[str, list[object]]:
    """One token for every byte."""
    if isinstance(text, str):
        return {"input_ids": list(text.encode())}
    return {"input_ids": [list(one.encode()) for one in text]}


class _StubScorer:
    """Scores that follow the first word of a text, with noise; the same in every run."""

    fingerprint = "stub"

    def __init__(self, dataset: Dataset) -> None:
        self._prompts = [example.prompt for example in dataset.examples]
        self._n_labels = len(dataset.label_space)

    def score(self, labels: Sequence[int] | IntArray, queries: BoolArray | None = None) -> Scored:
        """Score all examples; those that are not asked for stay NaN."""
        rng = np.random.default_rng(len(self._prompts))
        logits = rng.normal(size=(len(self._prompts), self._n_labels))
        kind = np.array([" good " in prompt for prompt in self._prompts])
        logits[kind, -1] += 2.0
        logits[~kind, 0] += 2.0
        scores = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)
        if queries is not None:
            scores[~queries] = np.nan
        return Scored(scores, 0)


def _stub_scorer(loaded: object, dataset: Dataset, config: object) -> _StubScorer:
    return _StubScorer(dataset)


if __name__ == "__main__":
    main()
