"""Contexts that grow at their end: a new label costs one encoding and one query per example."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from icm_fast._core import PrefixCache
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.model.hardware import available_bytes
from icm_fast.model.kv_size import kv_numbers_per_token
from icm_fast.model.loaded import LoadedModel
from icm_fast.model.sharing import turn_of
from icm_fast.plan.leave_one_out import Growing, LeaveOneOutPlan, Stages
from icm_fast.plan.pieces import TokenizedDataset
from icm_fast.scoring.local import TreeScorer
from icm_fast.scoring.protocol import Scored
from icm_fast.types import UNLABELLED, BoolArray, IntArray


def _check_memory(loaded: LoadedModel, budget: int) -> None:
    """Raise InputError if the pool does not fit into free memory."""
    config = loaded.model.config.get_text_config(decoder=True)
    each = kv_numbers_per_token(config) * loaded.model.dtype.itemsize
    free = available_bytes()
    if loaded.device.type == "cpu" and budget * each > free:
        fitting = max(1, free // (2 * each))
        raise InputError(
            f"context_order=append needs {budget * each:,} bytes for the keys and values of "
            f"{budget} tokens, but only {free:,} are free; pass kv_budget_tokens={fitting} or less"
        )


class AppendingScorer(TreeScorer):
    """Exact scores under contexts in the order of :class:`ContextOrders`.

    Keys and values of all contexts stay in a pool of ``kv_budget_tokens``.
    """

    def __init__(self, loaded: LoadedModel, pieces: TokenizedDataset, config: SearchConfig) -> None:
        # The other pool is that of `canonical`.
        super().__init__(loaded, pieces, config, n_pools=2)
        tokens = pieces.demonstration_bounds() + 1  # a slot may stay empty
        # Room for all demonstrations in all contexts, twice, so that labellings which the search
        # revisits are still in the pool.
        most = 2 * (len(pieces) + 2) * int(tokens.sum())
        budget = min(self._config.kv_budget_tokens, most)
        _check_memory(loaded, budget)
        self._orders = ContextOrders(tokens, budget)
        self._budget = budget
        self._cache = PrefixCache(budget)
        # Its contexts do not depend on what was scored before; the final labels are scored by it.
        by_tree = replace(config, context_order="tree")
        self.canonical = TreeScorer(loaded, pieces, by_tree, n_pools=2)

    def visit(self, labels: IntArray) -> None:
        """Note a labelling: the contexts of later ones depend on it."""
        with turn_of(self._loaded.model):
            self._orders.order_of(labels)

    def plan_rows(self, labels: IntArray, stages: Stages) -> LeaveOneOutPlan:
        """The plan under the present orders; a plan placed in the cache must be finished."""
        order = np.array(self._orders.order_of(labels), np.int32)
        return self.plan(labels, stages=stages, growing=Growing(order, self._cache))

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score all examples; anything less is scored outside the pool."""
        if queries is not None and not queries.all():
            return self.canonical.score(labels, queries)
        return self.score_rows(labels, np.ones(len(labels), np.bool_))

    def pool_bytes(self, labels: IntArray, queries: BoolArray | None = None) -> int:
        """Bytes of the pool of all contexts and of that of the final labels."""
        return self._budget * self._bytes_per_token() + self.canonical.pool_bytes(labels, queries)

    def score_canonical(self, labels: IntArray) -> Scored:
        """Score all examples under the contexts of ``context_order=tree``."""
        return self.canonical.score(labels)

    def _ended(self, plan: LeaveOneOutPlan, forwarded: BoolArray) -> None:
        if plan.tree.is_kept:
            self._cache.finish(forwarded)


Appended = tuple[int, ...]


class ContextOrders:
    """Decides for each labelling whether to append to known contexts or to build a new tree.

    Args:
        demonstration_tokens: ``[n]``, tokens of each example's demonstration.
        budget: Maximum number of tokens whose keys and values may be held.
    """

    def __init__(self, demonstration_tokens: npt.NDArray[np.int64], budget: int) -> None:
        self._tokens = np.asarray(demonstration_tokens, np.int64)
        self._budget = budget
        self._known: dict[bytes, Appended] = {}
        self._labels = np.zeros((0, len(self._tokens)), np.int32)
        self._orders: list[Appended] = []

    def order_of(self, labels: IntArray) -> Appended:
        """Examples at the end of all contexts of ``labels``, in order; fixed at the first call."""
        key = np.ascontiguousarray(labels, np.int32).tobytes()
        if key not in self._known:
            self._known[key] = order = self._decide(labels)
            self._labels = np.concatenate([self._labels, labels[None]])
            self._orders.append(order)
        return self._known[key]

    def _decide(self, labels: IntArray) -> Appended:
        differs = self._labels != labels
        extends = (~differs | (self._labels == UNLABELLED)).all(axis=1)
        sizes = (self._labels != UNLABELLED).sum(axis=1)
        if (extends & (sizes > 0)).any():
            # The latest among the largest: it shares the most with what is still in the pool.
            parent = int(np.flatnonzero(extends & (sizes == sizes[extends].max()))[-1])
            order = self._orders[parent] + tuple(np.flatnonzero(differs[parent]).tolist())
            return order if self._fits(labels, order) else ()
        same_set = ((self._labels == UNLABELLED) == (labels == UNLABELLED)).all(axis=1)
        if same_set.any():
            parent = int(np.flatnonzero(same_set)[-1])
            return self._after_change(labels, self._orders[parent], differs[parent])
        return ()

    def _after_change(
        self, labels: IntArray, order: Appended, changed: npt.NDArray[np.bool_]
    ) -> Appended:
        """Keep the order of the same examples under other labels if a new tree would cost more.

        Everything after the first changed example is encoded again in every context; a new tree
        encodes each demonstration about log2 n times.
        """
        if not set(np.flatnonzero(changed).tolist()) <= set(order):
            return ()
        first = min(order.index(int(i)) for i in np.flatnonzero(changed))
        labelled = np.flatnonzero(labels != UNLABELLED)
        again = len(labelled) * int(self._tokens[list(order[first:])].sum())
        anew = int(self._tokens[labelled].sum()) * max(1.0, math.log2(len(labelled)))
        return order if again <= anew else ()

    def _fits(self, labels: IntArray, order: Appended) -> bool:
        """Whether all contexts fit the budget: the tree, and the order appended to every leaf."""
        labelled = np.flatnonzero(labels != UNLABELLED)
        base = np.setdiff1d(labelled, order)
        tree = int(self._tokens[base].sum()) * math.ceil(math.log2(len(base) + 1))
        tails = (len(labelled) + 1) * int(self._tokens[list(order)].sum())
        queries = int(self._tokens.sum())
        return tree + tails + queries <= self._budget
