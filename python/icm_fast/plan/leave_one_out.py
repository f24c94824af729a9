"""The plan of one labelling: which tokens are forwarded, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from icm_fast._core import PrefixCache, TreePlan, plan_tree
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.plan.pieces import TokenizedDataset
from icm_fast.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class LeaveOneOutPlan:
    """Which tokens are forwarded, in which order, to score one labelling.

    Attributes:
        pieces: Token pieces of the data set.
        labels: The labelling, ``[n]``, -1 where unlabelled.
        queries: Which examples are scored, ``[n]`` bool.
        tree: Segments and batches.
        tail_tokens: Token ids of the inner nodes of the label tree.
    """

    pieces: TokenizedDataset
    labels: IntArray
    queries: BoolArray
    tree: TreePlan
    tail_tokens: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens that are forwarded: those of the tree without what a cache holds."""
        return int(self.tree.forwarded_tokens)

    @property
    def naive_tokens(self) -> int:
        """Tokens that one complete prompt per example would forward."""
        return int(self.tree.naive_tokens)

    @cached_property
    def contexts(self) -> list[IntArray]:
        """The order of the other labelled examples in the context of each example."""
        empty = np.zeros(0, np.int32)
        return [self.tree.context(i) if self.queries[i] else empty for i in range(len(self.labels))]

    def prompt_ids(self, example: int) -> list[int]:
        """Token ids that the model sees for ``example``; they end right before the label."""
        if not self.queries[example]:
            raise InputError(f"example {example} is not queried by this plan; query it")
        order = self.contexts[example]
        ids = self.pieces.context(order.tolist(), self.labels.tolist())
        return ids + list(self.pieces.prompt(example, first=len(order) == 0))

    def segment_ids(self, segment: int) -> list[int]:
        """Token ids of one segment of the tree."""
        tree = self.tree
        if tree.tail[segment] >= 0:
            return [self.tail_tokens[int(tree.tail[segment])]]
        is_root = bool(tree.has_root_token[segment])
        ids = list(self.pieces.root) if is_root else []
        first = int(tree.start[segment]) == 0 or self._opens_text(segment)
        for i in tree.demos[tree.demo_offsets[segment] : tree.demo_offsets[segment + 1]]:
            ids += self.pieces.demonstration(int(i), int(self.labels[i]), first=first)
            first = False
        if tree.query[segment] >= 0:
            ids += self.pieces.prompt(int(tree.query[segment]), first=first)
        return ids

    def _opens_text(self, segment: int) -> bool:
        """Whether only the root tokens come before the segment."""
        return int(self.tree.start[segment]) == len(self.pieces.root)


@dataclass(frozen=True, slots=True)
class Growing:
    """Contexts that grow at their end, and what is cached of earlier ones.

    Attributes:
        appended: Examples at the end of every other example's context, in order, int32.
        cache: Segments of earlier plans.
    """

    appended: IntArray
    cache: PrefixCache


@dataclass(frozen=True, slots=True)
class Stages:
    """Part of a plan, with the contexts of the whole plan, forwarded in stages.

    Attributes:
        rows: Examples to score, ``[n]`` bool; what only the others need is not forwarded.
        stage_tokens: Size of the sub-trees that are forwarded one after another; 0 for no stages.
        priority: ``[n]`` float64; sub-trees with a smaller mean come first.
    """

    rows: BoolArray
    stage_tokens: int = 0
    priority: FloatArray | None = None


def plan_pieces(
    pieces: TokenizedDataset,
    labels: IntArray,
    tail: tuple[tuple[int, ...], tuple[int, ...]],
    config: SearchConfig,
    queries: BoolArray | None = None,
    stages: Stages | None = None,
    growing: Growing | None = None,
) -> LeaveOneOutPlan:
    """Plan the scoring of one labelling.

    Args:
        pieces: Token pieces of the data set.
        labels: ``[n]`` label indices, -1 where unlabelled.
        tail: Tokens and parents of the label tree's inner nodes.
        config: Seed and budgets.
        queries: ``[n]`` bool, which examples to score; all by default.
        stages: Which of the queries to forward, and in which order.
        growing: Examples at the end of all contexts, and what the cache already holds.
    """
    labels = np.ascontiguousarray(labels, dtype=np.int32)
    queries = np.ones(len(labels), np.bool_) if queries is None else np.asarray(queries, np.bool_)
    demonstrations, extra = pieces.demonstration_lengths(labels.tolist())
    prompts, prompt_extra = pieces.query_lengths()
    tree = plan_tree(
        demonstration_tokens=demonstrations,
        first_extra=extra,
        query_tokens=prompts,
        query_first_extra=prompt_extra,
        labelled=labels >= 0,
        queried=queries,
        root_tokens=len(pieces.root),
        tail_parents=np.array(tail[1], np.int32),
        seed=config.seed,
        kv_budget_tokens=config.kv_budget_tokens,
        batch_tokens=config.batch_tokens,
        appended=None if growing is None else growing.appended,
        cache=None if growing is None else growing.cache,
        labels=labels,
        rows=None if stages is None else stages.rows,
        stage_tokens=0 if stages is None else stages.stage_tokens,
        priority=None if stages is None else stages.priority,
    )
    forwarded = queries if stages is None else queries & stages.rows
    return LeaveOneOutPlan(pieces, labels, forwarded, tree, tail[0])
