"""The cost of a whole search in tokens, by our procedure and by two others.

All are counted on the same sequence of decisions. Ours scores each distinct labelling once, by the
leave-one-out tree, and reads proposals off the scores. The others keep the examples in their
natural order, and propose by one more prompt. Between prompts they may keep the longest common
prefix, like any engine with a prefix cache.

* ``every step``: the algorithm as printed scores U(D) at every step, even where it draws the
  current label.
* ``authors' code``: a draw of the current label (a null draw) is one prompt; U(D) is scored for
  every labelling that the decisions need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from icm_fast.plan.uniform import uniform_plan

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PieceSizes:
    """Tokens of an example's pieces, the same for all examples.

    Attributes:
        demonstration: Prompt, label and separator.
        query: Prompt.
        root: Tokens before everything else (BOS).
    """

    demonstration: int
    query: int
    root: int = 0


class StepCounts(Protocol):
    """Counts by the number of labelled examples, ``[n + 1]`` each.

    :class:`icm_fast.engine.simulate.SimulatedSearch` has them.
    """

    @property
    def evaluations(self) -> Counts:
        """Distinct labellings scored."""

    @property
    def asks(self) -> Counts:
        """Labellings that the search needed, including repeats."""

    @property
    def null_draws(self) -> Counts:
        """Draws that proposed the current label."""

    @property
    def lookups(self) -> Counts:
        """Asks for unlabelled examples only."""

    @property
    def extra_rows(self) -> Counts:
        """Unlabelled examples scored, in evaluations and in lookups."""


@dataclass(frozen=True, slots=True)
class SearchCost:
    """Tokens forwarded in a whole search.

    Attributes:
        ours: By the tree, each distinct labelling once, unlabelled examples when they are drawn.
        ours_appending: The same with contexts that grow at their end: exact if every evaluation
            extends an earlier one, otherwise too low (changing an early label needs a new tree).
        ours_all_rows: By the tree, each distinct labelling once, with all unlabelled examples.
        ours_every_step: By the tree, every step scored, with all unlabelled examples.
        natural_cached: In the natural order, every step scored, common prefixes kept.
        natural_whole: In the natural order, every step scored, every prompt from its first token.
        authors_cached: In the natural order as the authors' code does it, common prefixes kept.
        authors_whole: The same, every prompt from its first token.
        n_evaluations: Labellings that we score.
        n_steps: Labellings that they score.
    """

    ours: int
    ours_appending: int
    ours_all_rows: int
    ours_every_step: int
    natural_cached: int
    natural_whole: int
    authors_cached: int
    authors_whole: int
    n_evaluations: int
    n_steps: int


def tree_tokens(n_labelled: int, n_queried: int, sizes: PieceSizes) -> int:
    """Tokens of one evaluation by the tree: labelled queries and some unlabelled ones."""
    plan = uniform_plan(
        max(n_queried, 1),
        demonstration=sizes.demonstration,
        query=sizes.query,
        n_labelled=n_labelled,
        root=sizes.root,
    )
    return int(plan.total_tokens)


def natural_tokens(n_labelled: int, sizes: PieceSizes, *, cached: bool) -> int:
    """Tokens of one U(D) in the natural order: labelled queries only.

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
    """Tokens of the prompt that proposes a label; a cache holds half of it on average."""
    demonstrations = n_labelled * sizes.demonstration
    if cached:
        return demonstrations // 2 + sizes.query
    return sizes.root + demonstrations + sizes.query


def _others(k: int, n_scored: int, n_draws: int, sizes: PieceSizes, *, cached: bool) -> int:
    """Tokens of some evaluations and of the prompts that propose, ``k`` examples labelled."""
    evaluations = n_scored * natural_tokens(k, sizes, cached=cached)
    return evaluations + n_draws * proposal_tokens(k, sizes, cached=cached)


def search_cost(counts: StepCounts, sizes: PieceSizes) -> SearchCost:
    """Count the tokens of a search.

    Args:
        counts: Counts of the search.
        sizes: Tokens of the pieces.
    """
    n = len(counts.asks) - 1
    ours = appending = all_rows = every_step = 0
    others = dict.fromkeys(("natural", "authors"), (0, 0))
    for k in range(n + 1):
        n_evaluations, n_asks = int(counts.evaluations[k]), int(counts.asks[k])
        n_steps = n_asks + int(counts.null_draws[k])
        if not n_steps:
            continue
        # A later lookup of unlabelled examples encodes all demonstrations again.
        extra = int(counts.extra_rows[k]) * sizes.query
        looks = int(counts.lookups[k]) * (sizes.root + k * sizes.demonstration)
        # Includes the path to unlabelled examples, whose queries are in `extra`.
        path = tree_tokens(k, k + 1, sizes) - sizes.query if k < n else tree_tokens(k, k, sizes)
        ours += n_evaluations * path + looks + extra
        each = k * (sizes.demonstration + sizes.query) + sizes.demonstration
        appending += n_evaluations * each + extra
        every = tree_tokens(k, n, sizes)
        all_rows += n_evaluations * every
        every_step += n_steps * every
        for name, n_scored in (("natural", n_steps), ("authors", n_asks)):
            cached, whole = (_others(k, n_scored, n_steps, sizes, cached=c) for c in (True, False))
            others[name] = (others[name][0] + cached, others[name][1] + whole)
    return SearchCost(
        ours=ours,
        ours_appending=appending,
        ours_all_rows=all_rows,
        ours_every_step=every_step,
        natural_cached=others["natural"][0],
        natural_whole=others["natural"][1],
        authors_cached=others["authors"][0],
        authors_whole=others["authors"][1],
        n_evaluations=int(counts.evaluations.sum()),
        n_steps=int(counts.asks.sum() + counts.null_draws.sum()),
    )
