"""`default` against `paper` at equal token budgets: utility, collapse, agreement with gold.

    python benchmarks/search_quality.py --data-dir ../shared/data --seeds 10

For each task and seed the preset `default` searches first; `paper` then gets as many tokens. Gold
labels are read after each search only. The utilities compared are those of the calibrated
objective, the one that `default` maximises, for complete and incomplete labellings alike; U of the
gold labels is scored with the same orders.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import icm_fast
from icm_fast import _core
from icm_fast.concerns import ONE_SIDED_SHARE
from icm_fast.config import SearchConfig
from icm_fast.engine import make_engine
from icm_fast.model import load_model
from icm_fast.scorers import make_scorer

FILES = {
    "truthfulqa": "truthfulqa.jsonl",
    "alpaca-preference": "alpaca_preference.jsonl",
    "gsm8k-verification": "gsm8k_verification.jsonl",
}


@dataclass(frozen=True)
class Task:
    """A task with the smallest model at hand and sizes that fit an evening."""

    name: str
    model: str
    n: int
    options: dict[str, Any]


TASKS = {
    "movie": Task("movie-sentiment", "smollm2", 32, {"max_chars": 60}),
    "movie-64": Task("movie-sentiment", "smollm2", 64, {"max_chars": 60}),
    "movie-gemma": Task("movie-sentiment", "gemma3-270m", 32, {"max_chars": 60}),
    "movie-paired": Task("movie-sentiment", "smollm2", 32, {"max_chars": 60, "form": "paired"}),
    "larger-than": Task("larger-than", "gemma3-270m", 32, {}),
    "truthfulqa": Task("truthfulqa", "smollm2", 32, {}),
    "alpaca": Task("alpaca-preference", "smollm2", 12, {}),
}


class Recorder:
    """Scores labellings once each and counts the tokens."""

    def __init__(self, scorer: Any) -> None:
        self.scorer = scorer
        self.known: dict[bytes, np.ndarray] = {}
        self.tokens = 0

    def score(self, labels: np.ndarray) -> np.ndarray:
        """Scores ``[n, n_labels]``."""
        key = labels.tobytes()
        if key not in self.known:
            scored = self.scorer.score(labels)
            self.known[key] = scored.scores
            self.tokens += scored.n_tokens
        return self.known[key]


def search(
    dataset: Any, scorer: Any, config: SearchConfig, budget: float
) -> tuple[np.ndarray, Recorder, str]:
    """Labels, what was scored, and why it ended; stops before a labelling beyond the budget."""
    engine, recorder = make_engine(config, dataset), Recorder(scorer)
    while (ask := engine.ask()) is not None:
        if recorder.tokens >= budget:
            return engine.result_labels, recorder, "budget"
        engine.tell(recorder.score(ask.labels))
    return engine.result_labels, recorder, engine.reason


def utility(dataset: Any, labels: np.ndarray, scores: np.ndarray, objective: str) -> float:
    """U(D) at the default alpha."""
    return _core.utility(
        labels, scores, *dataset.constraint_arrays(), objective=objective, alpha=50.0
    )


def run(task: Task, loaded: Any, data_dir: Path, seed: int) -> list[dict[str, Any]]:
    """Both presets on one seed."""
    data = str(data_dir / FILES[task.name]) if task.name in FILES else None
    dataset, gold = icm_fast.load_task(task.name, data, limit=task.n, seed=seed, **task.options)
    gold = np.asarray(gold, np.int32)
    rows, budget = [], float("inf")
    for preset in ("default", "paper"):
        config = SearchConfig(preset=preset, seed=seed)
        scorer = make_scorer(loaded, dataset, config)
        started = time.perf_counter()
        labels, recorder, reason = search(dataset, scorer, config, budget)
        seconds = time.perf_counter() - started
        budget = recorder.tokens if preset == "default" else budget
        labelled, scores = labels >= 0, recorder.score(labels)
        gold_scores = scorer.score(gold).scores
        shares = np.bincount(labels[labelled], minlength=2) / max(labelled.sum(), 1)
        gold_share = float(np.bincount(gold[gold >= 0]).max() / max((gold >= 0).sum(), 1))
        rows.append(
            {
                "preset": preset,
                "seed": seed,
                "n": len(dataset),
                "labelled": int(labelled.sum()),
                "evaluations": len(recorder.known),
                "tokens": recorder.tokens,
                "seconds": seconds,
                "reason": reason,
                "calibrated": utility(dataset, labels, scores, "calibrated"),
                "calibrated_gold": utility(dataset, gold, gold_scores, "calibrated"),
                "mean_logprob": utility(dataset, labels, scores, "mean_logprob"),
                "mean_logprob_gold": utility(dataset, gold, gold_scores, "mean_logprob"),
                "top_share": float(shares.max()),
                "collapsed": bool(shares.max() > ONE_SIDED_SHARE and gold_share < 0.7),
                "agreement": float((labels == gold)[(gold >= 0)].mean()),
            }
        )
    return rows


def table(name: str, rows: list[dict[str, Any]]) -> str:
    """One line per preset."""
    lines = []
    for preset in ("default", "paper"):
        mine = [row for row in rows if row["preset"] == preset]
        agreement = [row["agreement"] for row in mine]
        beats = sum(row["calibrated"] >= row["calibrated_gold"] for row in mine)
        lines.append(
            f"| {name} | {preset} | {len(mine)} | {np.mean([r['calibrated'] for r in mine]):.2f} | "
            f"{np.mean([r['mean_logprob'] for r in mine]):.2f} | {beats} | "
            f"{sum(r['collapsed'] for r in mine)} | "
            f"{np.mean([r['labelled'] / r['n'] for r in mine]):.2f} | "
            f"{np.mean(agreement):.2f} ({min(agreement):.2f} to {max(agreement):.2f}) | "
            f"{np.mean([r['tokens'] for r in mine]):,.0f} | "
            f"{np.mean([r['evaluations'] for r in mine]):.0f} |"
        )
    return "\n".join(lines)


HEAD = (
    "| task | preset | seeds | mean U calibrated | mean U log-prob | U >= U(gold) | collapsed | "
    "labelled | agreement (least to most) | tokens | evaluations |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Run the tasks asked for; results are written after each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--tasks", default="movie,movie-paired,larger-than,truthfulqa,alpaca")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found: dict[str, list[dict[str, Any]]] = {}
    models: dict[str, Any] = {}
    for name in arguments.tasks.split(","):
        task = TASKS[name]
        if task.model not in models:
            models[task.model] = load_model(task.model)
        found[name] = []
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            found[name] += run(task, models[task.model], arguments.data_dir, seed)
            if arguments.output is not None:
                content = {
                    "command": " ".join(["python", *sys.argv]),
                    "tasks": {key: asdict(TASKS[key]) for key in found},
                    "rows": found,
                }
                arguments.output.write_text(json.dumps(content, indent=2) + "\n")
        print(HEAD if len(found) == 1 else "", end="\n" if len(found) == 1 else "")
        print(table(name, found[name]), flush=True)


if __name__ == "__main__":
    main()
