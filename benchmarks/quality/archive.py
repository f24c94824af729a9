"""Run cells and keep what they gave, one file for each cell and seed; what is there is kept.

    python -m benchmarks.quality.archive --cells bench --seeds 20,21,22 -o build/quality
    python -m benchmarks.quality.archive --cells bench,hard,wrong --models smollm2 -o build/quality

Gold labels are read after each search; balanced bootstrapping gets at least the tokens of the
search. Each process should have one thread (OMP_NUM_THREADS=1): two processes, one for each model,
keep two cores busy.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import icm_fast
from benchmarks.quality.cells import BENCH, HARD, WRONG, Cell
from icm_fast.config import SearchConfig
from icm_fast.engine.native import labelling_utility
from icm_fast.engine.verdict import agreement_above_chance
from icm_fast.evaluation.baselines import balanced_bootstrapping, random_shot_labels
from icm_fast.evaluation.many_shot import predict
from icm_fast.files import write_atomically
from icm_fast.model import load_model
from icm_fast.runs.provenance import versions
from icm_fast.scoring.factory import make_scorer, make_text_scorer
from icm_fast.scoring.protocol import Scored
from icm_fast.types import UNLABELLED, BoolArray, Dataset, IntArray, ScoreArray

GROUPS = {"bench": BENCH, "hard": HARD, "wrong": WRONG}
_MOST_ROUNDS = 1000


class Recording:
    """A scorer that keeps what it was asked for."""

    fingerprint = "recording"

    def __init__(self, scorer: Any, texts: Any) -> None:
        self._scorer = scorer
        self._texts = texts
        self.scored: list[tuple[IntArray, ScoreArray]] = []

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score, and note the labelling."""
        found: Scored = self._scorer.score(labels, queries)
        self.scored.append((labels.copy(), np.asarray(found.scores, np.float32)))
        return found

    def score_texts(self, labels: IntArray) -> Scored:
        """Score texts after labels."""
        found: Scored = self._texts.score_texts(labels)
        return found


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", default="bench", help="bench, hard and wrong, with commas")
    parser.add_argument("--models", default="smollm2,gemma3-270m")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--data", type=Path, help="folder of data that the package does not hold")
    parser.add_argument("--presets", default="default", help="presets; the first gives the tokens")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    loaded: dict[str, Any] = {}
    for seed in map(int, arguments.seeds.split(",")):
        for cell in (c for group in arguments.cells.split(",") for c in GROUPS[group]):
            name = f"{cell.name} {cell.model} {seed}".replace(",", "").replace(" ", "-")
            path = arguments.output / f"{name}.json"
            if path.exists() or cell.model not in arguments.models.split(","):
                continue
            if cell.model not in loaded:
                loaded[cell.model] = load_model(cell.model)
            presets = arguments.presets.split(",")
            found = run(cell, seed, loaded[cell.model], arguments.data, presets)
            write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())
            searched = found["searches"][0]
            print(
                f"{name}: zero-shot {found['zero_shot']:.3f} golden {found['golden']:.3f} "
                f"search {searched['agreement']:.3f} ({searched['tokens']:,}) "
                f"bootstrapping {found.get('bootstrapping', float('nan')):.3f} "
                f"verdict {searched['verdict']}",
                flush=True,
            )


def run(cell: Cell, seed: int, model: Any, data: Path | None, presets: list[str]) -> dict[str, Any]:
    """All methods on the examples of one seed."""
    started = time.monotonic()
    dataset, gold = cell.load(seed, data)
    searches = [search(cell, dataset, gold, model, preset, seed) for preset in presets]
    scorer = make_scorer(model, dataset, SearchConfig(seed=seed))
    config = SearchConfig(seed=seed)
    golden = scorer.score(gold).scores
    alone = scorer.score(np.full(len(dataset), UNLABELLED, np.int32)).scores
    if cell not in BENCH:  # of interest for the verdict alone
        return common(cell, seed, dataset, gold, golden, alone, searches) | {
            "seconds": round(time.monotonic() - started, 1)
        }
    cheap = balanced_bootstrapping(
        dataset, model, config, rounds=_MOST_ROUNDS, max_tokens=searches[0]["tokens"]
    )
    shots = random_shot_labels(dataset, model, config)
    return common(cell, seed, dataset, gold, golden, alone, searches) | {
        "bootstrapping": agreement(cheap.labels, gold),
        "bootstrapping_tokens": cheap.n_tokens,
        "random_shots": agreement(shots.labels, gold),
        "random_shots_tokens": shots.n_tokens,
        "seconds": round(time.monotonic() - started, 1),
    }


def common(
    cell: Cell,
    seed: int,
    dataset: Dataset,
    gold: IntArray,
    golden: ScoreArray,
    alone: ScoreArray,
    searches: list[dict[str, Any]],
) -> dict[str, Any]:
    """What is kept of every cell."""
    return {
        "cell": cell.name,
        "task": cell.task,
        "model": cell.model,
        "seed": seed,
        "n": len(dataset),
        "n_labels": len(dataset.label_space),
        "start": cell.start,
        "gold": gold.tolist(),
        "zero_shot": agreement(predict(alone, calibrated=True), gold),
        "zero_shot_plain": agreement(predict(alone, calibrated=False), gold),
        "golden": agreement(predict(golden, calibrated=True), gold),
        "golden_plain": agreement(predict(golden, calibrated=False), gold),
        "golden_utility": labelling_utility(dataset, gold, golden, SearchConfig(seed=seed)),
        "searches": searches,
        "versions": versions(),
    }


def search(
    cell: Cell, dataset: Dataset, gold: IntArray, model: Any, preset: str, seed: int
) -> dict[str, Any]:
    """One search, and what it visited."""
    start: dict[str, Any] = {}
    if cell.start == "wrong":
        wrong = np.where(gold == UNLABELLED, gold, (gold + 1) % len(dataset.label_space))
        start = {"start": "given", "initial_labels": tuple(wrong.tolist())}
    config = SearchConfig(preset=preset, seed=seed, **start)
    texts = make_text_scorer(model, dataset, config)
    recording = Recording(make_scorer(model, dataset, config), texts)
    found = icm_fast.search(dataset, model=cell.model, config=config, scorer=recording)
    visited = [
        [round(labelling_utility(dataset, y, s, config), 4), round(agreement(y, gold), 4)]
        for y, s in recording.scored
        if (y != UNLABELLED).all() and np.isfinite(s).all()
    ]
    verdict = found.verdict
    more: dict[str, float | None] = {}
    if cell.start is not None:
        own = icm_fast.search(
            dataset,
            model=cell.model,
            config=SearchConfig(preset=preset, seed=seed),
            scorer=Recording(make_scorer(model, dataset, config), texts),
        )
        more["bootstrap"] = agreement(own.labels, gold)
        more["opinion"] = agreement_above_chance(found.labels, own.labels)
    return {
        "preset": preset,
        "labels": found.labels.tolist(),
        "agreement": agreement(found.labels, gold),
        "confidence": [round(float(c), 4) for c in found.confidence],
        "utility": found.utility,
        "tokens": found.n_tokens_forwarded,
        "evaluations": found.n_evaluations,
        "reason": found.reason,
        "visited": visited,
        "concerns": [concern.kind for concern in found.concerns],
        "signs": None if found.signs is None else found.signs.content(),
        "verdict": None if verdict is None else verdict.level,
        "chance": None if verdict is None else verdict.chance,
        "seconds": round(found.seconds, 1),
        **more,
    }


def agreement(labels: IntArray, gold: IntArray) -> float:
    """Share of equal labels where gold is known."""
    known = gold != UNLABELLED
    return float((labels == gold)[known].mean())


if __name__ == "__main__":
    main()
