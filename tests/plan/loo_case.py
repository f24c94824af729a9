"""Inputs of the leave-one-out planner, and its results recomputed the slow way."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from icm_fast import _core

ROOMY = 1 << 40
"""A budget in tokens that never binds."""


@dataclass(frozen=True, kw_only=True)
class LooCase:
    """One input, in tokens; ``labelled`` and ``queried`` default to everything."""

    demonstrations: tuple[int, ...]
    first_extra: tuple[int, ...] = ()
    queries: tuple[int, ...] = ()
    query_first_extra: tuple[int, ...] = ()
    labelled: tuple[bool, ...] = ()
    queried: tuple[bool, ...] = ()
    root_tokens: int = 0
    tail_parents: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.demonstrations)
        defaults = {
            "first_extra": (0,) * n,
            "queries": (3,) * n,
            "query_first_extra": (0,) * n,
            "labelled": (True,) * n,
            "queried": (True,) * n,
        }
        for name, value in defaults.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)

    def plan(
        self, seed: int = 0, kv_budget_tokens: int = ROOMY, batch_tokens: int = ROOMY
    ) -> _core.TreePlan:
        return _core.plan_tree(
            np.array(self.demonstrations, np.int64),
            np.array(self.first_extra, np.int64),
            np.array(self.queries, np.int64),
            np.array(self.query_first_extra, np.int64),
            np.array(self.labelled, np.bool_),
            np.array(self.queried, np.bool_),
            self.root_tokens,
            np.array(self.tail_parents, np.int32),
            seed,
            kv_budget_tokens,
            batch_tokens,
        )

    def where(self, *, labelled: bool | None = None, queried: bool | None = None) -> list[int]:
        """Return the examples with these flags; ``None`` stands for either."""
        return [
            i
            for i, flags in enumerate(zip(self.labelled, self.queried, strict=True))
            if labelled in (None, flags[0]) and queried in (None, flags[1])
        ]

    def prompt_tokens(self, context: Sequence[int], example: int) -> int:
        """Tokens of a whole prompt: root, demonstrations in this order, prompt of the example."""
        tokens = self.root_tokens + self.queries[example]
        tokens += sum(self.demonstrations[i] for i in context)
        return tokens + (
            self.first_extra[context[0]] if len(context) else self.query_first_extra[example]
        )


def flags(n: int) -> st.SearchStrategy[tuple[bool, ...]]:
    return st.tuples(*[st.booleans()] * n)


@st.composite
def loo_cases(draw: st.DrawFn, max_examples: int = 20) -> LooCase:
    """Every mixture of labelled and queried examples, tails, root and first-place extras."""
    n = draw(st.integers(0, max_examples))

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)))

    n_tail = draw(st.integers(0, 3))
    return LooCase(
        demonstrations=sizes(3, 30),
        first_extra=sizes(-2, 2),
        queries=sizes(3, 12),
        query_first_extra=sizes(-2, 2),
        labelled=draw(flags(n)),
        queried=draw(flags(n)),
        root_tokens=draw(st.integers(0, 1)),
        tail_parents=tuple(draw(st.integers(-1, k - 1)) for k in range(n_tail)),
    )


def ancestors(plan: _core.TreePlan, segment: int) -> Iterator[int]:
    """Yield the segments above ``segment``, nearest first."""
    while (segment := int(plan.parent[segment])) >= 0:
        yield segment


def demos_of(plan: _core.TreePlan, segment: int) -> list[int]:
    return plan.demos[plan.demo_offsets[segment] : plan.demo_offsets[segment + 1]].tolist()


def batches_of(plan: _core.TreePlan) -> list[list[int]]:
    return [
        plan.batch_segments[plan.batch_offsets[b] : plan.batch_offsets[b + 1]].tolist()
        for b in range(plan.n_batches)
    ]


def recount(case: LooCase, plan: _core.TreePlan, segment: int) -> int:
    """Tokens of one segment, from what it holds and what stands above it."""
    if plan.tail[segment] >= 0:
        return 1
    demos, query = demos_of(plan, segment), int(plan.query[segment])
    opens = not any(demos_of(plan, above) for above in ancestors(plan, segment))
    tokens = int(plan.has_root_token[segment]) + sum(case.demonstrations[i] for i in demos)
    if demos and opens:
        tokens += case.first_extra[demos[0]]
    if query >= 0:
        tokens += case.queries[query]
        tokens += case.query_first_extra[query] if opens and not demos else 0
    return tokens


def huffman_cost(weights: Sequence[int]) -> int:
    """Least sum of weight times depth over all binary trees, by the textbook algorithm."""
    heap = list(weights)
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        cost += merged
        heapq.heappush(heap, merged)
    return cost
