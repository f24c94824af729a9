"""What a whole search costs, against the procedure that scores every step in the natural order.

    python benchmarks/search_cost.py simulate --sizes 64,256
    python benchmarks/search_cost.py run --data ../shared/data/truthfulqa.jsonl --limit 64

``simulate`` counts tokens on synthetic scores (icm_fast.simulate). ``run`` searches with a real
model, then counts the tokens that the other procedure would forward at the same decisions, with a
prefix cache, and measures the seconds of its first steps with transformers' DynamicCache; the rest
is extrapolated by tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import icm_fast
from icm_fast.bench.peers.prefix import costs
from icm_fast.bench.peers.protocol import Job
from icm_fast.bench.peers.transformers_cache import CacheSession
from icm_fast.config import SearchConfig
from icm_fast.engine import make_engine
from icm_fast.model import load_model
from icm_fast.scorers import make_scorer
from icm_fast.search_cost import PieceSizes, search_cost
from icm_fast.simulate import simulate_search, synthetic_task

SIZES = PieceSizes(demonstration=40, query=38)
RESULTS = Path(__file__).parent / "results"


def simulate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Token counts and searches per second, by size and preset; medians over the seeds."""
    rows = []
    for n in arguments.sizes:
        for preset in ("paper", "default"):
            found = []
            started = time.perf_counter()
            for seed in range(arguments.seeds):
                task = synthetic_task(n, group_size=arguments.group_size, seed=seed)
                found.append(simulate_search(task, SearchConfig(preset=preset, seed=seed)))
            rate = arguments.seeds / (time.perf_counter() - started)
            every = [asdict(search_cost(f, SIZES)) for f in found]
            row = {key: float(np.median([cost[key] for cost in every])) for key in every[0]}
            rows.append(
                {
                    "n": n,
                    "preset": preset,
                    "searches_per_second": rate,
                    "at_least_true_utility": sum(f.utility >= f.true_utility for f in found),
                    "seeds": arguments.seeds,
                    **row,
                }
            )
            print(
                f"n {n:4d} {preset:8s} {rate:8.0f} searches/s  ours {row['ours']:12,.0f} tokens  "
                f"null draws scored {row['ours_every_step'] / row['ours']:5.1f}x  "
                f"natural, cached {row['natural_cached'] / row['ours']:6.1f}x  "
                f"natural, whole {row['natural_whole'] / row['ours']:6.1f}x"
            )
    return {"kind": "simulated", "sizes": asdict(SIZES), "rows": rows}


Steps = list[tuple[np.ndarray, int]]
"""Labellings that the other procedure scores, each with the number of times it does so."""


def search(
    dataset: Any, scorer: Any, config: SearchConfig, limit: float
) -> tuple[Steps, dict[str, Any]]:
    """Our search, each distinct labelling scored once; stops after ``limit`` seconds."""
    engine, known = make_engine(config, dataset), {}
    steps: Steps = []
    rejections: list[tuple[int, int, int]] = []
    tokens, started = 0, time.perf_counter()
    while (ask := engine.ask()) is not None and time.perf_counter() - started < limit:
        key = ask.labels.tobytes()
        if key not in known:
            scored = scorer.score(ask.labels)
            known[key] = scored.scores
            tokens += scored.n_tokens
        steps.append((ask.labels, 1))
        state = engine.labels
        rejections += early_rejection(engine, ask, known[key], config)
        engine.tell(known[key])
        for event in engine.take_events():
            # An event counts the null draws before it, in the state that its decision may leave.
            steps.append((state, event["null_draws"]))
            state = engine.labels
    seconds = time.perf_counter() - started
    return steps, {
        "tokens": tokens,
        "seconds": seconds,
        "evaluations": len(known),
        "iterations": engine.iteration,
        "finished": engine.done,
        "n_labelled": int(engine.n_labelled),
        # Leaves scored before the bound on U falls below the threshold, as a share of all.
        "early_rejection": {
            "rejected": len(rejections),
            "leaves_in_random_order": mean([at / n for n, at, _ in rejections]),
            "leaves_worst_first": mean([at / n for n, _, at in rejections]),
        },
    }


def mean(values: list[float]) -> float | None:
    """Arithmetic mean; None of nothing."""
    return float(np.mean(values)) if values else None


def early_rejection(
    engine: Any, ask: Any, scores: np.ndarray, config: SearchConfig
) -> list[tuple[int, int, int]]:
    """(leaves, needed in random order, needed worst first) if the candidate will be rejected.

    Log-probabilities are at most 0, so a sum over some leaves bounds U from above. Worst first is
    by the scores of the current state, which are known before the candidate is scored.
    """
    if config.objective != "mean_logprob" or not np.isfinite(ask.threshold):
        return []
    labelled = np.flatnonzero(ask.labels >= 0)
    terms = config.alpha * scores[labelled, ask.labels[labelled]] / len(labelled)
    if terms.sum() >= ask.threshold:
        return []
    before = engine.scores[labelled, ask.labels[labelled]]
    needed = [
        int(np.argmax(np.cumsum(terms[order]) < ask.threshold)) + 1
        for order in (np.random.default_rng(0).permutation(len(labelled)), np.argsort(before))
    ]
    return [(len(labelled), needed[0], needed[1])]


def natural_prompts(pieces: Any, labels: np.ndarray) -> list[list[int]]:
    """The prompts of one U(D) in the natural order, one per labelled example."""
    labelled = np.flatnonzero(labels >= 0).tolist()
    prompts = []
    for i in labelled:
        others = [j for j in labelled if j != i]
        context = pieces.context(others, labels.tolist())
        prompts.append(context + list(pieces.prompt(i, first=not others)))
    return prompts


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """A real search and the other procedure at the same decisions."""
    torch.set_num_threads(arguments.threads)
    dataset, _ = icm_fast.load_task(
        arguments.task, arguments.data, limit=arguments.limit, seed=arguments.seed
    )
    config = SearchConfig(
        preset=arguments.preset, seed=arguments.seed, max_iterations=arguments.max_iterations
    )
    loaded = load_model(arguments.model, dtype=config.dtype)
    scorer = make_scorer(loaded, dataset, config)
    pieces = scorer._pieces
    scorer.score(np.where(np.arange(len(dataset)) < 2, 0, -1).astype(np.int32))  # warm up
    steps, ours = search(dataset, scorer, config, arguments.our_seconds)
    theirs = {"steps": 0, "tokens": 0, "measured_steps": 0, "measured_tokens": 0, "seconds": 0.0}
    label_ids = [ids[0] for ids in pieces.labels]
    session = CacheSession(Job([], label_ids, "", "", arguments.threads, []), loaded.model)
    for labels, times in steps:
        prompts = natural_prompts(pieces, labels)
        if not prompts or not times:
            continue
        tokens = sum(costs(prompts, reuses_prefix=True))
        theirs["steps"] += times
        theirs["tokens"] += times * tokens
        if theirs["seconds"] < arguments.their_seconds:
            session.reset()
            started = time.perf_counter()
            session.label_logits(prompts)
            theirs["seconds"] += time.perf_counter() - started
            theirs["measured_steps"] += 1
            theirs["measured_tokens"] += tokens
    whole = theirs["seconds"] * theirs["tokens"] / theirs["measured_tokens"]
    print(f"ours: {ours}")
    print(f"natural order, DynamicCache, every step: {theirs}; extrapolated {whole:,.0f} s")
    print(
        f"tokens {theirs['tokens'] / ours['tokens']:.1f}x, seconds {whole / ours['seconds']:.1f}x"
    )
    return {
        "kind": "run",
        "settings": {k: v for k, v in vars(arguments).items() if k not in {"command", "output"}},
        "ours": ours,
        "natural_cached": theirs | {"extrapolated_seconds": whole},
        "token_ratio": theirs["tokens"] / ours["tokens"],
        "second_ratio": whole / ours["seconds"],
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    simulated = commands.add_parser("simulate")
    simulated.add_argument(
        "--sizes", type=lambda text: [int(k) for k in text.split(",")], default=[64, 256]
    )
    simulated.add_argument("--seeds", type=int, default=20)
    simulated.add_argument("--group-size", type=int, default=1)
    real = commands.add_parser("run")
    real.add_argument("--task", default="truthfulqa")
    real.add_argument("--data", required=True)
    real.add_argument("--limit", type=int, default=64)
    real.add_argument("--model", default="smollm2")
    real.add_argument("--preset", default="paper")
    real.add_argument("--seed", type=int, default=0)
    real.add_argument("--max-iterations", type=int, default=None)
    real.add_argument("--our-seconds", type=float, default=1e9)
    real.add_argument("--their-seconds", type=float, default=120.0)
    real.add_argument("--threads", type=int, default=2)
    for command in (simulated, real):
        command.add_argument("--output", type=Path, default=None)
    return parser.parse_args()


def main() -> None:
    """Run one command; with --output the results are written as JSON."""
    arguments = parse()
    found = simulate(arguments) if arguments.command == "simulate" else run(arguments)
    found["shell"] = " ".join(["python", *sys.argv])
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
