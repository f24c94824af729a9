"""Float32 scores that every peer's answers are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.engines.launch import Launcher
from benchmarks.engines.variants import OURS
from benchmarks.engines.verify import Verdict, compare
from benchmarks.engines.workload import OrderedPrompts, Workload

FIRST_PROMPTS = 4
"""A slow peer measures at least these (``peers.protocol.PROBED_PROMPTS``)."""


@dataclass(frozen=True, slots=True)
class References:
    """Log-probabilities by order and position of the prompt, ``[n_labels]`` each.

    Attributes:
        rows: For each order the positions that have a reference.
    """

    rows: dict[str, dict[int, list[float]]] = field(default_factory=dict)

    def judge(self, order: str, scores: list[list[float]], precision: str) -> Verdict:
        """Compare the scores of the first prompts of an order, ``[n_measured, n_labels]``."""
        known = self.rows[order]
        positions = [k for k in sorted(known) if k < len(scores)]
        return compare(
            np.array([scores[k] for k in positions], np.float64),
            np.array([known[k] for k in positions], np.float64),
            precision,
        )


def make_references(
    workload: Workload, prompts: dict[str, OrderedPrompts], launcher: Launcher
) -> References:
    """Score in float32: whole prompts at sampled positions, and all prompts by our tree.

    The tree is compared with the whole prompts first.

    Raises:
        RuntimeError: Tree and whole prompts differ, or either failed.
    """
    references = whole_prompts(workload, prompts, launcher)
    if OURS in prompts:
        tree = _scores(launcher, OURS, workload, prompts[OURS])
        verdict = references.judge(OURS, tree, "float32")
        if not verdict.correct:
            raise RuntimeError(
                f"our float32 scores differ from whole prompts by up to {verdict.maximum:.2g}, so "
                "no peer can be compared with them; report this"
            )
        references.rows[OURS] = dict(enumerate(tree))
    return references


def whole_prompts(
    workload: Workload, prompts: dict[str, OrderedPrompts], launcher: Launcher
) -> References:
    """Float32 scores of single whole prompts at sampled positions of each order."""
    places = [(order, k) for order in prompts for k in sampled_positions(workload.n, order)]
    sampled = OrderedPrompts(
        order="sampled",
        examples=[prompts[order].examples[k] for order, k in places],
        prompts=[prompts[order].prompts[k] for order, k in places],
    )
    rows = _scores(launcher, "transformers-naive", workload, sampled, options={"batch_size": 1})
    references = References()
    for (order, k), row in zip(places, rows, strict=True):
        references.rows.setdefault(order, {})[k] = row
    return references


def sampled_positions(n: int, order: str) -> list[int]:
    """Positions of the prompts that are scored whole.

    In our order they check the tree, which then provides all the others. In the natural order they
    are all that a peer is compared with, so they include the first few.
    """
    if order == OURS:
        return sorted({int(k) for k in np.linspace(0, n - 1, 4)})
    return sorted({*range(min(n, FIRST_PROMPTS)), n // 2, n - 1})


def _scores(
    launcher: Launcher, peer: str, workload: Workload, ordered: OrderedPrompts, **settings: Any
) -> list[list[float]]:
    job = workload.job(
        ordered, dtype="float32", threads=launcher.threads, cpus=launcher.cpus, **settings
    )
    scores: list[list[float]] = launcher.run(peer, job)["scores"]
    return scores
