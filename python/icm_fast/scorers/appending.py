"""Contexts that grow at their end: an addition costs one encoding and one query per example."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from icm_fast import _core
from icm_fast.config import SearchConfig
from icm_fast.context_orders import ContextOrders
from icm_fast.errors import InputError
from icm_fast.leave_one_out import Growing, LeaveOneOutPlan, Stages
from icm_fast.model.hardware import available_bytes
from icm_fast.model.load import LoadedModel
from icm_fast.prompts import TokenizedDataset
from icm_fast.scorers.local import STAGE_TOKENS, TreeScorer
from icm_fast.scorers.protocol import Enough, Scored
from icm_fast.types import BoolArray, FloatArray, IntArray


def _check_memory(loaded: LoadedModel, budget: int) -> None:
    """Raise InputError if the pool does not fit the memory that is free."""
    config = loaded.model.config.get_text_config(decoder=True)
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or 0)
    width = width or config.hidden_size // config.num_attention_heads
    each = 2 * config.num_hidden_layers * heads * width * loaded.model.dtype.itemsize
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
        super().__init__(loaded, pieces, config)
        prompts, _ = pieces.query_lengths()
        # A label's tokens and a slot that may stay empty come on top of the prompt.
        longest_label = max(len(ids) for ids in pieces.labels)
        tokens = prompts + longest_label + 1
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

    def growing_plan(self, labels: IntArray, stages: Stages | None = None) -> LeaveOneOutPlan:
        """The plan under the present orders; one that the cache has placed must be finished."""
        order = np.array(self._orders.order_of(labels), np.int32)
        return self.plan(labels, stages=stages, growing=Growing(order, self._cache))

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score all examples; ``queries`` other than all means a plan of its own."""
        if queries is not None and not queries.all():
            return self.canonical.score(labels, queries)
        return self.score_rows(labels, np.ones(len(labels), np.bool_))

    def score_rows(
        self,
        labels: IntArray,
        rows: BoolArray,
        *,
        enough: Enough | None = None,
        priority: FloatArray | None = None,
    ) -> Scored:
        """Score some examples as if all were; see :class:`icm_fast.scorers.protocol.RowScorer`."""
        stage_tokens = 0 if enough is None else STAGE_TOKENS
        plan = self.growing_plan(labels, Stages(rows, stage_tokens, priority))
        forwarded = np.zeros(plan.tree.n_segments, np.bool_)
        try:
            return self._run_stages(plan, enough, forwarded)
        finally:
            if plan.tree.is_kept:
                self._cache.finish(forwarded)
