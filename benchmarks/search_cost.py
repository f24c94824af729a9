"""The cost of a whole search, against others that score in the natural order.

    python -m benchmarks.search_cost simulate --sizes 64,256
    python -m benchmarks.search_cost run --data truthfulqa.jsonl --limit 64 --context-order append

``simulate`` counts tokens on synthetic scores (icm_fast.engine.simulate). ``run`` searches with a
real model, then counts the tokens that the others would forward for the same decisions with a
prefix cache: (a) the algorithm as printed, every step scored; (b) the authors' code, for which a
null draw is one prompt. It times some evaluations, spread over the search, with transformers'
DynamicCache (none with ``--their-steps 0``); the rest is extrapolated by tokens.
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
from benchmarks.engines.launch import Launcher
from benchmarks.engines.peers.prefix import costs
from benchmarks.engines.peers.protocol import Job
from benchmarks.engines.peers.transformers_cache import CacheSession
from benchmarks.engines.random_model import model_folder
from benchmarks.token_cost import PieceSizes, search_cost
from icm_fast.config import SearchConfig
from icm_fast.engine.answers import answer, checked
from icm_fast.engine.chains import make_search_engine
from icm_fast.engine.simulate import simulate_search, synthetic_task
from icm_fast.model import load_model
from icm_fast.model.lazy import LazyModel
from icm_fast.runs.store import MemoryStore
from icm_fast.scoring.factory import make_scorer
from icm_fast.scoring.lazy import LazyScorer

SIZES = PieceSizes(demonstration=40, query=38)
RESULTS = Path(__file__).parent / "results"


def whole_set(examples: int, n: int, row: dict[str, float]) -> dict[str, float]:
    """Tokens for a data set that is labelled in separate batches of ``n``."""
    batches = -(-examples // n)
    kinds = ("ours", "ours_appending", "natural_cached", "authors_cached")
    totals = {f"whole_set_{kind}": batches * row[kind] for kind in kinds}
    shown = ", ".join(f"{kind} {batches * row[kind]:.2e}" for kind in kinds)
    print(f"{examples:,} examples in {batches:,} batches of {n}, tokens: {shown}")
    return {"examples": examples, "batches": batches, **totals}


def simulate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Token counts by size and preset; medians over the seeds."""
    rows = []
    for n in arguments.sizes:
        for preset in ("paper", "authors-code", "annealing"):
            found = []
            for seed in range(arguments.seeds):
                task = synthetic_task(n, group_size=arguments.group_size, seed=seed)
                found.append(simulate_search(task, SearchConfig(preset=preset, seed=seed)))
            every = [asdict(search_cost(f, SIZES)) for f in found]
            row = {key: float(np.median([cost[key] for cost in every])) for key in every[0]}
            rows.append(
                {
                    "n": n,
                    "preset": preset,
                    "at_least_true_utility": sum(f.utility >= f.true_utility for f in found),
                    "seeds": arguments.seeds,
                    **row,
                    **whole_set(arguments.examples, n, row),
                }
            )
            print(
                f"n {n:4d} {preset:12s} ours {row['ours']:12,.0f} tokens  "
                f"appending {row['ours_appending'] / row['ours']:5.2f}x  "
                f"all rows {row['ours_all_rows'] / row['ours']:5.2f}x  "
                f"null draws scored {row['ours_every_step'] / row['ours']:5.1f}x  "
                f"every step, cached {row['natural_cached'] / row['ours']:6.1f}x  "
                f"authors' code, cached {row['authors_cached'] / row['ours']:5.1f}x"
            )
    return {"kind": "simulated", "sizes": asdict(SIZES), "rows": rows}


@dataclass(frozen=True, slots=True)
class Step:
    """What the others do with one labelling ``[n]``.

    Attributes:
        labels: The labelling.
        n_asks: How often the decisions need its U(D).
        n_null: Draws in this state that propose what is there.
    """

    labels: np.ndarray
    n_asks: int
    n_null: int


Steps = list[Step]


def search(dataset: Any, loaded: Any, config: SearchConfig) -> tuple[Steps, dict[str, Any]]:
    """The search of ``icm_fast.search``, recording every labelling that it decides on."""
    engine, store = make_search_engine(config, dataset), MemoryStore()
    scorer = LazyScorer(dataset, config, LazyModel(loaded))
    steps: Steps = []
    counts = {"asks": 0, "lookups": 0, "abandoned": 0, "rejected": 0, "moves": 0}
    started = time.perf_counter()
    while (ask := engine.ask()) is not None:
        state = engine.labels
        engine.tell(answer(engine, ask, store, scorer, config))
        counts["lookups" if ask.is_lookup else "asks"] += 1
        if not ask.is_lookup:
            steps.append(Step(ask.labels, 1, 0))
        for event in engine.take_events():
            # An event counts the null draws before it, made in the state before its decision.
            steps.append(Step(state, 0, event["null_draws"]))
            counts["moves"] += event["move"] not in {"init", "done"}
            counts["rejected"] += event["move"] not in {"init", "done"} and not event["accepted"]
            counts["abandoned"] += event.get("abandoned", False)
            state = engine.labels
    if config.context_order == "append":
        score = checked(store, scorer, scorer.score_canonical)
        store.beside("canonical", engine.result_labels, score)
    return steps, {
        "tokens": store.n_tokens,
        "seconds": time.perf_counter() - started,
        "evaluations": store.n_evaluations,
        "iterations": engine.iteration,
        "reason": engine.reason,
        "n_labelled": int(engine.n_labelled),
        "utility": float(engine.result_utility),
        **counts,
    }


def natural_prompts(pieces: Any, labels: np.ndarray) -> list[list[int]]:
    """The prompts of one U(D) in the natural order, one per labelled example."""
    labelled = np.flatnonzero(labels >= 0).tolist()
    prompts = []
    for i in labelled:
        others = [j for j in labelled if j != i]
        context = pieces.context(others, labels.tolist())
        prompts.append(context + list(pieces.prompt(i, first=not others)))
    return prompts


def config_of(arguments: argparse.Namespace) -> SearchConfig:
    """The settings of our search."""
    return SearchConfig(
        preset=arguments.preset,
        seed=arguments.seed,
        max_iterations=arguments.max_iterations,
        context_order=arguments.context_order,
        early_rejection=not arguments.no_early_rejection,
        lazy_queries=not arguments.no_lazy_queries,
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """A real search, and the other procedure for the same decisions."""
    torch.set_num_threads(arguments.threads)
    dataset, _ = icm_fast.load_task(
        arguments.task, arguments.data, limit=arguments.limit, seed=arguments.seed
    )
    config = config_of(arguments)
    loaded = load_model(arguments.model, dtype=config.dtype)
    scorer = make_scorer(loaded, dataset, SearchConfig())
    pieces = scorer._pieces
    scorer.score(np.where(np.arange(len(dataset)) < 2, 0, -1).astype(np.int32))  # warm up
    steps, ours = search(dataset, loaded, config)
    print(f"ours: {ours}", flush=True)
    theirs: dict[str, Any] = {"steps": 0, "tokens": 0, "measured_steps": 0, "measured_tokens": 0}
    theirs["seconds"] = 0.0
    authors = {"evaluations": 0, "proposals": 0, "tokens": 0}
    label_ids = [ids[0] for ids in pieces.labels]
    session = CacheSession(Job([], label_ids, "", "", arguments.threads, []), loaded.model)
    scored = [s for s in steps if s.n_asks + s.n_null and (s.labels >= 0).any()]
    costs_of: list[tuple[int, int, Any]] = []
    # Some of their steps, spread over the whole search, are timed.
    chosen = set(np.linspace(0, len(scored) - 1, arguments.their_steps).astype(int).tolist())
    for number, step in enumerate(scored):
        times = step.n_asks + step.n_null
        prompts = natural_prompts(pieces, step.labels)
        tokens = sum(costs(prompts, reuses_prefix=True))
        authors["evaluations"] += step.n_asks
        authors["proposals"] += times
        # Half of a prompt that proposes is in the cache, on average.
        proposal = sum(map(len, prompts)) // len(prompts) // 2
        authors["tokens"] += step.n_asks * tokens + times * proposal
        theirs["steps"] += times
        theirs["tokens"] += times * tokens
        last = tokens
        costs_of.append((tokens, times, prompts if number in chosen else None))
        if number in chosen:
            session.reset()
            started = time.perf_counter()
            session.label_logits(prompts)
            theirs["seconds"] += time.perf_counter() - started
            theirs["measured_steps"] += 1
            theirs["measured_tokens"] += tokens
    rate = theirs["seconds"] / max(1, theirs["measured_tokens"])
    whole = rate * theirs["tokens"]
    authors["extrapolated_seconds"] = rate * authors["tokens"]
    if arguments.vllm:
        theirs["vllm"] = vllm_seconds(arguments, loaded.model, label_ids, costs_of)
        print(f"vLLM: {theirs['vllm']}, {theirs['vllm']['seconds'] / ours['seconds']:.1f}x")
    rest = max(0, arguments.their_iterations - ours["iterations"])
    theirs["rest_steps"], theirs["rest_tokens"] = rest, rest * last
    print(f"natural order, DynamicCache, every step: {theirs}; extrapolated {whole:,.0f} s")
    print(
        f"every step scored: tokens {theirs['tokens'] / ours['tokens']:.1f}x, seconds "
        f"{whole / ours['seconds']:.1f}x; the authors' code: tokens "
        f"{authors['tokens'] / ours['tokens']:.1f}x; every step, with their remaining {rest} "
        f"steps: tokens {(theirs['tokens'] + rest * last) / ours['tokens']:.0f}x"
    )
    return {
        "kind": "run",
        "settings": {k: v for k, v in vars(arguments).items() if k not in {"command", "output"}},
        **_document(ours, theirs, whole, rest * last),
        "authors_code": authors,
        "authors_token_ratio": authors["tokens"] / ours["tokens"],
    }


def _document(
    ours: dict[str, Any], theirs: dict[str, Any], seconds: float, rest_tokens: int
) -> dict[str, Any]:
    """Both procedures and their ratios; the other one's seconds are extrapolated."""
    return {
        "ours": ours,
        "natural_cached": theirs | {"extrapolated_seconds": seconds},
        "token_ratio": theirs["tokens"] / ours["tokens"],
        "second_ratio": seconds / ours["seconds"],
        "token_ratio_with_rest": (theirs["tokens"] + rest_tokens) / ours["tokens"],
    }


def vllm_seconds(
    arguments: argparse.Namespace, model: Any, label_ids: list[int], steps: Any
) -> dict[str, Any]:
    """The other procedure with vLLM's CPU build: some steps measured, the rest from their tokens.

    The time of a step grows with its tokens, faster for long contexts; steps between two measured
    ones are interpolated linearly.
    """
    measured = [(tokens, prompts) for tokens, _, prompts in steps if prompts is not None]
    n = len(measured)
    measured = [measured[k] for k in sorted({n // 4, n // 2, n - 1})]
    launcher = Launcher(arguments.peers_dir, arguments.threads)
    launcher.check("vllm")
    points = [(0.0, 0.0)]
    for tokens, prompts in measured:
        job = Job(
            prompts,
            label_ids,
            model_folder(arguments.model),
            "bfloat16" if model.dtype == torch.bfloat16 else "float32",
            arguments.threads,
            launcher.cpus,
            max_seconds=60.0,
            options={"block_size": 32},
        )
        result = launcher.run("vllm", job)
        points.append((float(tokens), result["seconds"][0] / result["measured_share"]))
    points.sort()
    sizes, seconds = zip(*points, strict=True)
    total = sum(times * float(np.interp(tokens, sizes, seconds)) for tokens, times, _ in steps)
    return {"seconds": total, "measured_tokens_and_seconds": points[1:]}


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
    simulated.add_argument(
        "--examples",
        type=int,
        default=1_000_000,
        help="of a data set labelled in batches",
    )
    real = commands.add_parser("run")
    real.add_argument("--task", default="truthfulqa")
    real.add_argument("--data", required=True)
    real.add_argument("--limit", type=int, default=64)
    real.add_argument("--model", default="smollm2")
    real.add_argument("--preset", default="paper")
    real.add_argument("--seed", type=int, default=0)
    real.add_argument("--max-iterations", type=int, default=None)
    real.add_argument("--context-order", default="tree")
    real.add_argument("--no-early-rejection", action="store_true")
    real.add_argument("--no-lazy-queries", action="store_true")
    real.add_argument("--their-steps", type=int, default=12, help="number of steps to time")
    real.add_argument(
        "--their-iterations",
        type=int,
        default=3000,
        help="iterations without a test of convergence",
    )
    real.add_argument("--vllm", action="store_true", help="also time their steps with vLLM")
    real.add_argument("--peers-dir", type=Path, default=Path(".peers"))
    real.add_argument("--threads", type=int, default=2)
    for command in (simulated, real):
        command.add_argument("--output", type=Path, default=None)
    return parser.parse_args()


def main() -> None:
    """Run one command; with --output the results are written as JSON."""
    arguments = parse()
    found = simulate(arguments) if arguments.command == "simulate" else run(arguments)
    found["shell"] = " ".join(["python", "-m", "benchmarks.search_cost", *sys.argv[1:]])
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
