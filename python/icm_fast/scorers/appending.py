"""Contexts that grow at their end: an addition costs one encoding and one query per example."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from icm_fast import _core
from icm_fast.config import SearchConfig
from icm_fast.context_orders import ContextOrders
from icm_fast.errors import InputError
from icm_fast.model.hardware import available_bytes
from icm_fast.model.kv_size import kv_numbers_per_token
from icm_fast.model.loaded import LoadedModel
from icm_fast.plan.leave_one_out import Growing, LeaveOneOutPlan, Stages
from icm_fast.plan.pieces import TokenizedDataset
from icm_fast.scorers.local import TreeScorer, within_device
from icm_fast.scorers.protocol import Scored
from icm_fast.types import BoolArray, IntArray


def _check_memory(loaded: LoadedModel, budget: int) -> None:
    """Raise InputError if the pool does not fit the memory that is free."""
    config = loaded.model.config.get_text_config(decoder=True)
    each = kv_numbers_per_token(config) * loaded.model.dtype.itemsize
    free = available_bytes()
    if loaded.device.type == "cpu" and budget * each > free:
        fitting = max(1, free // (2 * each))
        raise InputError(
            f"context_order=append holds keys and values of {budget} tokens, {budget * each:,} "
            f"bytes, but {free:,} are free; pass kv_budget_tokens={fitting} or less"
        )


class AppendingScorer(TreeScorer):
    """Exact scores under contexts of :class:`icm_fast.context_orders.ContextOrders`.

    Keys and values of all contexts stay in the pool, ``kv_budget_tokens`` of it.
    """

    def __init__(self, loaded: LoadedModel, pieces: TokenizedDataset, config: SearchConfig) -> None:
        config = within_device(config, loaded, n_pools=2)  # that of `canonical`, too
        super().__init__(loaded, pieces, config)
        tokens = pieces.demonstration_bounds() + 1  # a slot may stay empty
        # All demonstrations in all contexts, twice: what a search looks at again is still there.
        most = 2 * (len(pieces) + 2) * int(tokens.sum())
        budget = min(config.kv_budget_tokens, most)
        _check_memory(loaded, budget)
        self._orders = ContextOrders(tokens, budget)
        self._cache = _core.PrefixCache(budget)
        # The same contexts whatever was scored before: what the final labels are scored under.
        self.canonical = TreeScorer(loaded, pieces, replace(config, context_order="tree"))

    def visit(self, labels: IntArray) -> None:
        """Note a labelling that was looked up: the contexts of later ones depend on it."""
        self._orders.order_of(labels)

    def plan_rows(self, labels: IntArray, stages: Stages) -> LeaveOneOutPlan:
        """The plan under the present orders; one that the cache has placed must be finished."""
        order = np.array(self._orders.order_of(labels), np.int32)
        return self.plan(labels, stages=stages, growing=Growing(order, self._cache))

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score all examples; ``queries`` other than all means a plan of its own."""
        if queries is not None and not queries.all():
            return self.canonical.score(labels, queries)
        return self.score_rows(labels, np.ones(len(labels), np.bool_))

    def _ended(self, plan: LeaveOneOutPlan, forwarded: BoolArray) -> None:
        if plan.tree.is_kept:
            self._cache.finish(forwarded)
