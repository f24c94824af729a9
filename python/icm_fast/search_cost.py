"""What a whole search costs in tokens, with us and by the procedure that others follow.

Both are counted on one sequence of decisions. Ours scores each distinct labelling once, by the
leave-one-out tree. Theirs keeps the examples in their natural order and scores every step, also one
that draws the label that is there; between prompts it may keep the longest common prefix, as every
engine with a prefix cache does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from icm_fast import _core
from icm_fast.config import SearchConfig

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PieceSizes:
    """Tokens of one example's pieces, the same for all.

    Attributes:
        demonstration: Prompt, label and separator.
        query: Prompt.
        root: Tokens before everything (BOS).
    """

    demonstration: int
    query: int
    root: int = 0


@dataclass(frozen=True, slots=True)
class SearchCost:
    """Tokens forwarded in a whole search.

    Attributes:
        ours: By the tree, each distinct labelling once.
        ours_every_step: By the tree, every step scored.
        natural_cached: In the natural order, every step scored, common prefixes kept.
        natural_whole: In the natural order, every step scored, every prompt from its first token.
        n_evaluations: Labellings that we score.
        n_steps: Labellings that they score.
    """

    ours: int
    ours_every_step: int
    natural_cached: int
    natural_whole: int
    n_evaluations: int
    n_steps: int


def tree_tokens(n_labelled: int, n: int, sizes: PieceSizes) -> int:
    """Tokens of our evaluation: the labelled examples' queries and all unlabelled ones."""
    plan = _core.plan_tree(
        demonstration_tokens=np.full(n, sizes.demonstration, np.int64),
        first_extra=np.zeros(n, np.int64),
        query_tokens=np.full(n, sizes.query, np.int64),
        query_first_extra=np.zeros(n, np.int64),
        labelled=np.arange(n) < n_labelled,
        queried=np.ones(n, np.bool_),
        root_tokens=sizes.root,
        tail_parents=np.zeros(0, np.int32),
        seed=0,
        kv_budget_tokens=SearchConfig().kv_budget_tokens,
        batch_tokens=SearchConfig().batch_tokens,
        n_anchors=0,
    )
    return int(plan.total_tokens)


def natural_tokens(n_labelled: int, sizes: PieceSizes, *, cached: bool) -> int:
    """Tokens of one U(D) in the natural order: only the labelled examples' queries.

    The prompt of example i holds the demonstrations 1 .. i - 1 and i + 1 .. k. With a prefix cache
    it shares the first i - 2 of them with the prompt before it, and forwards k - i + 1.
    """
    k = n_labelled
    if k == 0:
        return 0
    first = sizes.root + (k - 1) * sizes.demonstration + sizes.query
    if not cached:
        return k * first
    return first + k * (k - 1) // 2 * sizes.demonstration + (k - 1) * sizes.query


def proposal_tokens(n_labelled: int, sizes: PieceSizes, *, cached: bool) -> int:
    """Tokens of the one prompt that proposes a label; a cache keeps half of it on average."""
    demonstrations = n_labelled * sizes.demonstration
    if cached:
        return demonstrations // 2 + sizes.query
    return sizes.root + demonstrations + sizes.query


def search_cost(counts: Mapping[str, Counts], sizes: PieceSizes) -> SearchCost:
    """Count the tokens of a search.

    Args:
        counts: ``evaluations``, ``asks`` and ``null_draws`` by the number of labelled examples,
            ``[n + 1]`` each (see :class:`icm_fast.simulate.SimulatedSearch`).
        sizes: Tokens of the pieces.
    """
    n = len(counts["asks"]) - 1
    ours = every_step = cached = whole = 0
    for k in range(n + 1):
        n_evaluations, n_asks = int(counts["evaluations"][k]), int(counts["asks"][k])
        n_steps = n_asks + int(counts["null_draws"][k])
        if not n_steps:
            continue
        tokens = tree_tokens(k, n, sizes)
        ours += n_evaluations * tokens
        every_step += n_steps * tokens
        for_cached = natural_tokens(k, sizes, cached=True) + proposal_tokens(k, sizes, cached=True)
        for_whole = natural_tokens(k, sizes, cached=False) + proposal_tokens(k, sizes, cached=False)
        cached += n_steps * for_cached
        whole += n_steps * for_whole
    return SearchCost(
        ours=ours,
        ours_every_step=every_step,
        natural_cached=cached,
        natural_whole=whole,
        n_evaluations=int(counts["evaluations"].sum()),
        n_steps=int(counts["asks"].sum() + counts["null_draws"].sum()),
    )
