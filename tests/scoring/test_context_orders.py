"""Orders of contexts that grow: what the pool has lost is not counted on."""

import numpy as np
import pytest

from icm_fast._core import PrefixCache
from icm_fast.config import SearchConfig
from icm_fast.plan.leave_one_out import Growing, Stages, plan_pieces
from icm_fast.plan.pieces import TokenizedDataset
from icm_fast.scoring.growing import ContextOrders

N = 24
DEMONSTRATION = 10


def pieces():
    later = (1,) * (DEMONSTRATION - 1)
    return TokenizedDataset((), (later,) * N, (later,) * N, ((2,), (3,)), 4)


def orders(budget):
    return ContextOrders(np.full(N, DEMONSTRATION, np.int64), budget)


def first(k, **changed):
    """The first ``k`` examples with label 0, but for those named, such as ``e3=1``."""
    labels = np.where(np.arange(N) < k, 0, -1).astype(np.int32)
    for name, label in changed.items():
        labels[int(name[1:])] = label
    return labels


def test_additions_are_appended_while_the_pool_holds_what_they_continue():
    found = orders(10**6)
    assert found.order_of(first(8)) == ()
    assert found.order_of(first(9)) == (8,)
    # Another candidate in between is of no account.
    assert found.order_of(first(8, e12=1)) == (12,)
    assert found.order_of(first(10)) == (8, 9)
    assert found.order_of(first(10, e9=1)) == (8, 9)
    assert found.order_of(first(10, e2=1)) == ()
    assert found.order_of(first(9)) == (8,)


def test_contexts_that_were_pushed_out_are_not_continued():
    whole = DEMONSTRATION * (18 * 5 + 3 * 21)  # a tree of 18 and three at the end of each context
    for budget, expected in ((20 * whole, (18, 19, 20, 21)), (2 * whole, ())):
        found = orders(budget)
        for k in (18, 19, 20, 21):
            found.order_of(first(k))
        for i in range(5):  # each a tree of its own
            assert found.order_of(first(21, **{f"e{i}": 1})) == ()
        assert found.order_of(first(22)) == expected


def test_what_continues_a_labelling_keeps_its_contexts_in_use():
    whole = DEMONSTRATION * (18 * 5 + 6 * 25)
    found = orders(2 * whole)
    for k in range(18, 23):
        assert found.order_of(first(k)) == tuple(range(18, k))
    # Written since: that of 19 to 22. Without their use, the contexts of 18 would be too old.
    assert found.order_of(first(18, e23=1)) == (23,)


def history(rng):
    """A search that grows by one example at a time, and then rejects what a fix makes of more."""
    for k in range(6, 21):
        yield first(k)
    for _ in range(30):
        added = first(20)
        added[rng.integers(20, N)] = rng.integers(2)
        yield added
        for _ in range(3):
            option = added.copy()
            option[rng.integers(20)] = 1
            yield option


@pytest.mark.parametrize("budget", [3500, 5000, 7000, 10**6])
def test_growing_contexts_cost_less_than_trees_whatever_the_budget(budget):
    config, all_pieces = SearchConfig(), pieces()
    found, cache, grown, by_tree = orders(budget), PrefixCache(budget), 0, 0
    for labels in history(np.random.default_rng(3)):
        rows = labels >= 0
        order = np.array(found.order_of(labels), np.int32)
        for growing in (None, Growing(order, cache)):
            plan = plan_pieces(
                all_pieces, labels, ((), ()), config, stages=Stages(rows), growing=growing
            )
            if growing is None:
                by_tree += plan.n_tokens
                continue
            grown += plan.n_tokens
            if plan.tree.is_kept:
                cache.finish(np.ones(plan.tree.n_segments, np.bool_))
    assert grown <= 0.8 * by_tree  # with orders that count on contexts which are gone: 0.995
