"""Tokens of whole simulated searches as the planner counts them, under a budget of the pool.

    python -m benchmarks.context_cost --sizes 64 --group-sizes 1,4 --budgets 65536,400000

``search_cost simulate`` takes every evaluation with ``context_order=append`` to extend an earlier
one, which is a lower bound: a changed early label needs a new tree, and a pool that is full loses
contexts. Here every labelling of a search is planned as the scorer plans it, with the same orders
and the same cache, and the tokens of the plans are added up. The others make the same decisions in
the natural order with a prefix cache: (a) the algorithm as printed scores U(D) at every step, (b)
the authors' code spends one prompt at a null draw (benchmarks/token_cost.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.token_cost import PieceSizes, search_cost
from icm_fast._core import Engine, PrefixCache
from icm_fast.config import KV_BUDGET_TOKENS, SearchConfig
from icm_fast.engine.native import engine_settings
from icm_fast.engine.simulate import SyntheticTask, synthetic_task
from icm_fast.plan.leave_one_out import Growing, LeaveOneOutPlan, Stages, plan_pieces
from icm_fast.plan.pieces import TokenizedDataset
from icm_fast.scoring.growing import ContextOrders
from icm_fast.types import BoolArray, IntArray, ScoreArray

SIZES = PieceSizes(demonstration=40, query=38)


def uniform_pieces(n: int) -> TokenizedDataset:
    """Pieces of the sizes above for ``n`` examples and two labels."""
    later = SIZES.demonstration - 1
    return TokenizedDataset(
        root=(),
        first_prompts=((1,) * SIZES.query,) * n,
        later_prompts=((1,) * later,) * n,
        labels=((2,), (3,)),
        terminator=4,
    )


def synthetic_scores(task: SyntheticTask, labels: IntArray) -> ScoreArray:
    """The formula of csrc/engine/simulator.hpp, ``[n, n_labels]``, to the last few bits."""
    n_labels = task.evidence.shape[1]
    is_labelled = labels >= 0
    counts = np.array([(labels == y).sum() for y in range(n_labels)], np.float64)
    right = np.where(is_labelled, np.where(labels == task.truth, 1.0, -1.0), 0.0)
    others = is_labelled.sum() - is_labelled
    direction = task.prior_strength * task.prior_count + right.sum() - right
    direction /= task.prior_count + others
    own = labels[:, None] == np.arange(n_labels)
    shares = (counts - own + 1.0) / (others[:, None] + n_labels)
    logits = task.trust * direction[:, None] * task.evidence + task.lean * np.log(shares)
    logits -= logits.max(axis=1, keepdims=True)
    scores = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return np.asarray(scores, np.float32)


@dataclass
class Counts:
    """What a search did, by the number of labelled examples, ``[n + 1]`` each."""

    n: int
    evaluations: Any = field(init=False)
    asks: Any = field(init=False)
    null_draws: Any = field(init=False)
    lookups: Any = field(init=False)
    extra_rows: Any = field(init=False)

    def __post_init__(self) -> None:
        for name in ("evaluations", "asks", "null_draws", "lookups", "extra_rows"):
            setattr(self, name, np.zeros(self.n + 1, np.int64))


Request = tuple[IntArray, BoolArray]
"""A labelling, ``[n]``, and the rows that are scored of it, ``[n]``; none if all are known."""


def requests(task: SyntheticTask, config: SearchConfig, counts: Counts) -> Iterator[Request]:
    """What one search looks at, in order; fills ``counts``."""
    shape = task.evidence.shape
    engine = Engine(*shape, task.pairs, task.tables, **engine_settings(config))
    known: dict[bytes, BoolArray] = {}
    while (ask := engine.ask()) is not None:
        labels, n_before = ask.labels, engine.n_labelled
        before = known.setdefault(labels.tobytes(), np.zeros(len(labels), np.bool_))
        rows = ask.rows & ~before
        k = int((labels >= 0).sum())
        counts.evaluations[k] += not before.any()
        counts.asks[k] += not ask.is_lookup
        counts.lookups[k] += bool(before.any() and rows.any())
        counts.extra_rows[k] += int((rows & (labels < 0)).sum())
        known[labels.tobytes()] = before | rows
        yield labels, rows
        engine.tell(synthetic_scores(task, labels))
        for event in engine.take_events():
            counts.null_draws[n_before] += event["null_draws"]
            n_before = event["n_labelled"]


class Pool:
    """Contexts that grow, in a pool of ``budget`` tokens that nothing is written to."""

    def __init__(self, pieces: TokenizedDataset, config: SearchConfig, budget: int) -> None:
        self._pieces, self._config = pieces, config
        self._orders = ContextOrders(pieces.demonstration_bounds() + 1, budget)
        self._cache = PrefixCache(budget)
        self.tokens = 0

    def visit(self, labels: IntArray, rows: BoolArray) -> None:
        """Plan the rows of a labelling, as the scorer does, and count what it forwards."""
        order = np.array(self._orders.order_of(labels), np.int32)
        if not rows.any():
            return
        growing = Growing(order, self._cache)
        found = planned(self._pieces, labels, rows, self._config, growing)
        self.tokens += found.n_tokens
        if found.tree.is_kept:
            self._cache.finish(np.ones(found.tree.n_segments, np.bool_))


def planned(
    pieces: TokenizedDataset,
    labels: IntArray,
    rows: BoolArray,
    config: SearchConfig,
    growing: Growing | None = None,
) -> LeaveOneOutPlan:
    """The plan of some rows."""
    return plan_pieces(pieces, labels, ((), ()), config, stages=Stages(rows), growing=growing)


def measure(n: int, group_size: int, preset: str, seed: int, budgets: list[int]) -> dict[str, Any]:
    """One search: tokens by the tree, by growing contexts of each budget, and of the others."""
    task = synthetic_task(n, group_size=group_size, seed=seed)
    config = SearchConfig(preset=preset, seed=seed)
    pieces, counts, tree = uniform_pieces(n), Counts(n), 0
    pools = {budget: Pool(pieces, config, budget) for budget in budgets}
    for labels, rows in requests(task, config, counts):
        if rows.any():
            tree += planned(pieces, labels, rows, config).n_tokens
        for pool in pools.values():
            pool.visit(labels, rows)
    cost = search_cost(counts, SIZES)
    return {
        "tree": tree,
        **{f"append {budget}": pool.tokens for budget, pool in pools.items()},
        "append, lower bound": cost.ours_appending,
        "every step": cost.natural_cached,
        "authors' code": cost.authors_cached,
        "evaluations": int(counts.evaluations.sum()),
    }


def numbers(text: str) -> list[int]:
    """A list of integers."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Run all; with --output the results are written as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=numbers, default=[64])
    parser.add_argument("--group-sizes", type=numbers, default=[1, 4])
    parser.add_argument("--presets", type=lambda text: text.split(","), default=["paper"])
    parser.add_argument("--budgets", type=numbers, default=[KV_BUDGET_TOKENS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    rows = []
    for n in arguments.sizes:
        for group_size in arguments.group_sizes:
            for preset in arguments.presets:
                every = [
                    measure(n, group_size, preset, seed, arguments.budgets)
                    for seed in range(arguments.seeds)
                ]
                medians = {key: float(np.median([one[key] for one in every])) for key in every[0]}
                rows.append({"n": n, "group_size": group_size, "preset": preset, **medians})
                print(json.dumps(rows[-1]), flush=True)
    if arguments.output is not None:
        command = " ".join(["python", "-m", "benchmarks.context_cost", *sys.argv[1:]])
        found = {"command": command, "seeds": arguments.seeds, "rows": rows}
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
