"""`default` against `paper` at equal token budgets: utility, collapse, agreement with gold.

    python benchmarks/search_quality.py --data-dir ../shared/data --seeds 10

For each task and seed, the preset `default` searches first; `paper` then gets the same number of
tokens. Gold labels are only read after each search. The utilities compared are those of the
calibrated objective, which `default` maximises, for complete and incomplete labellings alike; the
gold labels are scored with the same context orders.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import icm_fast
from icm_fast import _core
from icm_fast.config import SearchConfig
from icm_fast.engine.concerns import ONE_SIDED_SHARE
from icm_fast.model import load_model
from icm_fast.scoring.factory import make_scorer

FILES = {
    "truthfulqa": "truthfulqa.jsonl",
    "alpaca-preference": "alpaca_preference.jsonl",
    "gsm8k-verification": "gsm8k_verification.jsonl",
}


@dataclass(frozen=True)
class Task:
    """A task with a small model and sizes that run in an evening."""

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
    "truthfulqa": Task("truthfulqa", "smollm2", 24, {}),
    "alpaca": Task("alpaca-preference", "smollm2", 8, {}),
}


def utility(dataset: Any, labels: np.ndarray, scores: np.ndarray, objective: str) -> float:
    """U(D) at the default alpha."""
    pairs, tables = dataset.constraint_arrays()
    return _core.utility(labels, scores, pairs, tables, objective=objective, alpha=50.0)


def accuracy(scores: np.ndarray, gold: np.ndarray, *, calibrated: bool) -> float:
    """Share of gold labels that the scores prefer, with or without removing the mean prediction."""
    chances = np.exp(scores - scores.max(1, keepdims=True))
    shift = np.log((chances / chances.sum(1, keepdims=True)).mean(0)) if calibrated else 0.0
    return float(((scores - shift).argmax(1) == gold)[gold >= 0].mean())


def run(task: Task, loaded: Any, data_dir: Path, seed: int) -> list[dict[str, Any]]:
    """Both presets on one seed."""
    data = str(data_dir / FILES[task.name]) if task.name in FILES else None
    dataset, gold = icm_fast.load_task(task.name, data, limit=task.n, seed=seed, **task.options)
    gold = np.asarray(gold, np.int32)
    scorer = make_scorer(loaded, dataset, SearchConfig(seed=seed))
    gold_scores = scorer.score(gold).scores
    zero_shot = scorer.score(np.full(len(dataset), -1, np.int32)).scores
    rows, budget = [], 0
    for preset in ("default", "paper"):
        config = SearchConfig(preset=preset, seed=seed, max_tokens=budget)
        found = icm_fast.search(dataset, model=loaded, config=config)
        budget = found.n_tokens_forwarded if preset == "default" else budget
        labels = found.labels
        labelled = labels >= 0
        shares = np.bincount(labels[labelled], minlength=2) / max(labelled.sum(), 1)
        gold_share = float(np.bincount(gold[gold >= 0]).max() / max((gold >= 0).sum(), 1))
        known = (gold >= 0) & labelled
        rows.append(
            {
                "preset": preset,
                "seed": seed,
                "n": len(dataset),
                "labelled": int(labelled.sum()),
                "evaluations": found.n_evaluations,
                "tokens": found.n_tokens_forwarded,
                "seconds": found.seconds,
                "reason": found.reason,
                "calibrated": utility(dataset, labels, found.scores, "calibrated"),
                "calibrated_gold": utility(dataset, gold, gold_scores, "calibrated"),
                "mean_logprob": utility(dataset, labels, found.scores, "mean_logprob"),
                "mean_logprob_gold": utility(dataset, gold, gold_scores, "mean_logprob"),
                "top_share": float(shares.max()),
                "collapsed": bool(shares.max() > ONE_SIDED_SHARE and gold_share < 0.7),
                "agreement": float((labels == gold)[(gold >= 0)].mean()),
                "agreement_of_labelled": float((labels == gold)[known].mean()),
                "golden_many_shot": accuracy(gold_scores, gold, calibrated=False),
                "golden_many_shot_calibrated": accuracy(gold_scores, gold, calibrated=True),
                "zero_shot": accuracy(zero_shot, gold, calibrated=False),
                "zero_shot_calibrated": accuracy(zero_shot, gold, calibrated=True),
            }
        )
    return rows


def table(name: str, rows: list[dict[str, Any]]) -> str:
    """One line per preset."""
    lines = []
    for preset in ("default", "paper"):
        mine = [row for row in rows if row["preset"] == preset]
        agreement = [row["agreement"] for row in mine]

        def mean(key: str, mine: list[dict[str, Any]] = mine) -> float:
            return float(np.mean([row[key] for row in mine]))

        beats = sum(row["calibrated"] >= row["calibrated_gold"] for row in mine)
        lines.append(
            f"| {name} | {preset} | {len(mine)} | {mean('calibrated'):.2f} | "
            f"{mean('mean_logprob'):.2f} | {beats} | {sum(r['collapsed'] for r in mine)} | "
            f"{np.mean([r['labelled'] / r['n'] for r in mine]):.2f} | "
            f"{np.mean(agreement):.3f} ({min(agreement):.2f} to {max(agreement):.2f}) | "
            f"{mean('golden_many_shot'):.3f}, {mean('golden_many_shot_calibrated'):.3f} | "
            f"{mean('zero_shot'):.3f}, {mean('zero_shot_calibrated'):.3f} | "
            f"{mean('tokens'):,.0f} | {mean('evaluations'):.0f} |"
        )
    return "\n".join(lines)


HEAD = (
    "| task | preset | seeds | U calibrated | U mean log-prob | U >= U(gold) | collapsed "
    "| labelled | agreement (least to most) | golden many-shot, calibrated "
    "| zero-shot, calibrated | tokens | evaluations |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Run the requested tasks; results are written after each seed."""
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
