"""Tokens that each saving avoids, on the decisions of one real search.

    python -m benchmarks.search_savings --data truthfulqa.jsonl --limit 64 --output savings.json

A search with the preset ``paper`` runs several times, with savings switched on and off. A stand-in
for the model scores each labelling once and completely, answers from these scores, and counts the
tokens of the plans, batch by batch; the decisions are compared. ``context_order=append`` has other
contexts, so it is a separate search (`python -m benchmarks.search_cost run`). Finally, the scores
of ``context_demonstrations`` are compared with the exact ones of the same search.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import icm_fast
from benchmarks.token_cost import PieceSizes, natural_tokens, proposal_tokens
from icm_fast.config import SearchConfig
from icm_fast.engine.native import make_engine
from icm_fast.model import load_model
from icm_fast.plan.leave_one_out import Stages
from icm_fast.scoring.factory import make_scorer
from icm_fast.scoring.local import STAGE_TOKENS
from icm_fast.scoring.protocol import Scored

VARIANTS: dict[str, dict[str, Any]] = {
    "all savings": {},
    "without early rejection": {"early_rejection": False},
    "without lazy queries": {"lazy_queries": False},
    "without both": {"early_rejection": False, "lazy_queries": False},
}


class Counting:
    """Answers from a table of scores and counts the tokens of the plans.

    Args:
        scorer: Plans, and scores new labellings.
        stage_tokens: Size of the stages after which scoring may stop.
        known: Scores by labelling, shared between searches.
    """

    def __init__(self, scorer: Any, stage_tokens: int, known: dict[bytes, np.ndarray]) -> None:
        self.scorer = scorer
        self.stage_tokens = stage_tokens
        self.known = known

    fingerprint = "counting"

    def whole(self, labels: np.ndarray) -> np.ndarray:
        """All scores of a labelling."""
        key = labels.tobytes()
        if key not in self.known:
            self.known[key] = self.scorer.score(labels).scores
        return self.known[key]

    def score(self, labels: np.ndarray, queries: np.ndarray | None = None) -> Scored:
        """All rows."""
        return Scored(self.whole(labels), self.scorer.plan(labels).n_tokens)

    def score_rows(
        self, labels: np.ndarray, rows: np.ndarray, *, enough: Any = None, priority: Any = None
    ) -> Scored:
        """Some rows, in the stages of the real scorer."""
        stage_tokens = 0 if enough is None else self.stage_tokens
        plan = self.scorer.plan(labels, stages=Stages(rows, stage_tokens, priority))
        scores, tokens = np.full_like(self.whole(labels), np.nan), 0
        tree = plan.tree
        for first, last in zip(tree.batch_offsets[:-1], tree.batch_offsets[1:], strict=True):
            segments = tree.batch_segments[first:last]
            tokens += int(tree.n_tokens[segments].sum())
            queries = tree.query[segments]
            done = queries[queries >= 0]
            scores[done] = self.whole(labels)[done]
            if enough is not None and len(done) and enough(scores):
                break
        return Scored(scores, tokens)


def decisions(folder: Path) -> list[Any]:
    """The proposals of a search and whether they were accepted."""
    kept = []
    for line in (folder / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        kept.append([event[key] for key in ("iteration", "move", "changes", "accepted")])
    return kept


def every_step(dataset: Any, scorer: Any, folder: Path) -> dict[str, int]:
    """Tokens without memory and with every null draw scored, by the tree and in natural order."""
    labels = np.full(len(dataset), -1, np.int32)
    prompts, _ = scorer._pieces.query_lengths()
    query = float(prompts.mean())
    sizes = PieceSizes(demonstration=round(query + 3), query=round(query))
    counts = {"steps": 0, "tree": 0, "natural, cached": 0}
    for line in (folder / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        before = labels.copy()
        candidate = labels.copy()
        for example, _, after in event["changes"]:
            candidate[example] = after
        scored = [(before, event["null_draws"])]
        if event["move"] != "done":
            scored.append((candidate, 1))
        for state, times in scored:
            k = int((state >= 0).sum())
            if not times or not k:
                continue
            counts["steps"] += times
            counts["tree"] += times * scorer.plan(state).n_tokens
            natural = natural_tokens(k, sizes, cached=True) + proposal_tokens(k, sizes, cached=True)
            counts["natural, cached"] += times * natural
        if event["accepted"]:
            labels = candidate
    return counts


# ---- The approximation, against the exact scores of the same search ----


def trace(dataset: Any, config: SearchConfig, counting: Counting) -> list[dict[str, Any]]:
    """Every candidate with a threshold, and its scores."""
    engine, found = make_engine(config, dataset), []
    while (ask := engine.ask()) is not None:
        whole = counting.whole(ask.labels)
        engine.tell(whole)
        events = engine.take_events()
        if np.isfinite(ask.threshold) and events:
            found.append({"labels": ask.labels, "after": whole})
    return found


def bounded(
    dataset: Any, loaded: Any, decisions_made: list[dict[str, Any]], demonstrations: int, seed: int
) -> Any:
    """Compare scores with fewer demonstrations and with all, on a few complete labellings."""
    config = SearchConfig(preset="paper", seed=seed, context_demonstrations=demonstrations)
    scorer = make_scorer(loaded, dataset, config)
    complete = [made for made in decisions_made if (made["labels"] >= 0).all()] or decisions_made
    differences, changed, tokens = [], [], []
    for made in complete[-3:]:
        scored = scorer.score(made["labels"])
        labelled = made["labels"] >= 0
        differences.append(np.abs(scored.scores - made["after"])[labelled])
        changed.append((scored.scores.argmax(1) != made["after"].argmax(1))[labelled].mean())
        tokens.append(scored.n_tokens)
    return {
        "demonstrations": demonstrations,
        "median_difference": float(np.median(np.concatenate(differences))),
        "largest_difference": float(np.concatenate(differences).max()),
        "favourite_changes": float(np.mean(changed)),
        "tokens": float(np.mean(tokens)),
    }


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--task", default="truthfulqa")
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=None)
    return parser.parse_args()


def main() -> None:
    """Run all variants; with --output, write the results as JSON."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    dataset, _ = icm_fast.load_task(
        arguments.task, arguments.data, limit=arguments.limit, seed=arguments.seed
    )
    loaded = load_model(arguments.model)
    scorer = make_scorer(loaded, dataset, SearchConfig(seed=arguments.seed))
    known: dict[bytes, np.ndarray] = {}
    rows, first = [], None
    started = time.perf_counter()
    for stage_tokens in (STAGE_TOKENS, STAGE_TOKENS // 2, STAGE_TOKENS // 4):
        for name, settings in VARIANTS.items():
            if stage_tokens != STAGE_TOKENS and name != "all savings":
                continue
            config = SearchConfig(preset="paper", seed=arguments.seed, **settings)
            with tempfile.TemporaryDirectory() as folder:
                result = icm_fast.search(
                    dataset,
                    model="counting",
                    config=config,
                    scorer=Counting(scorer, stage_tokens, known),
                    output_dir=folder,
                )
                found = decisions(Path(folder))
                first = found if first is None else first
                text = (Path(folder) / "events.jsonl").read_text()
                steps = every_step(dataset, scorer, Path(folder))
            rows.append(
                {
                    "variant": name,
                    "stage_tokens": stage_tokens,
                    "tokens": result.n_tokens_forwarded,
                    "evaluations": result.n_evaluations,
                    "abandoned": text.count('"abandoned": true'),
                    "iterations": result.n_iterations,
                    "reason": result.reason,
                    "same_decisions": found == first,
                }
            )
            print(f"{time.perf_counter() - started:6.0f} s  {rows[-1]}", flush=True)
    print(f"every step scored: {steps}")
    config = SearchConfig(preset="paper", seed=arguments.seed, lazy_queries=False)
    made = trace(dataset, config, Counting(scorer, STAGE_TOKENS, known))
    approximations: dict[str, Any] = {
        "context_demonstrations": [
            bounded(dataset, loaded, made, m, arguments.seed) for m in (16, 32)
        ],
    }
    print(json.dumps(approximations, indent=1))
    if arguments.output is not None:
        content: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "rows": rows}
        content |= {"every_step": steps, "approximations": approximations}
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
