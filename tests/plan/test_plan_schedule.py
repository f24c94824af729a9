"""Batches and key/value slots: a simulated run finds every ancestor in its place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from loo_case import LooCase, ancestors, batches_of, loo_cases

from icm_fast import _core

budgets = st.integers(1, 600)


def last_uses(plan: _core.TreePlan) -> dict[int, int]:
    """Map each segment to the last batch that runs it or a descendant."""
    last: dict[int, int] = {}
    for batch, segments in enumerate(batches_of(plan)):
        for s in segments:
            for user in (s, *ancestors(plan, s)):
                last[user] = batch
    return last


def simulate(plan: _core.TreePlan) -> Iterator[int]:
    """Run the batches over a pool of slots that remember their writer; yield the live tokens."""
    pool = np.full(plan.pool_tokens, -1)
    live: dict[int, range] = {}
    last = last_uses(plan)
    for batch, segments in enumerate(batches_of(plan)):
        for s in segments:
            for above in ancestors(plan, s):
                slots = live[above]
                assert above not in segments
                assert (pool[slots.start : slots.stop] == above).all()
        for s in segments:
            start = int(plan.kv_offset[s])
            live[s] = range(start, start + int(plan.n_tokens[s]))
            assert 0 <= start < live[s].stop <= plan.pool_tokens
            pool[start : live[s].stop] = s
        slots_in_use = [slot for slots in live.values() for slot in slots]
        assert len(slots_in_use) == len(set(slots_in_use))
        yield len(slots_in_use)
        live = {s: slots for s, slots in live.items() if last[s] > batch}
    assert live == {}


@settings(deadline=None)
@given(case=loo_cases(), kv_budget=budgets, batch_tokens=budgets)
def test_simulated_run_keeps_ancestors_and_the_predicted_peak(
    case: LooCase, kv_budget: int, batch_tokens: int
) -> None:
    plan = case.plan(1, kv_budget, batch_tokens)
    peak = max(simulate(plan), default=0)
    assert plan.peak_kv_tokens == peak <= plan.pool_tokens
    # No order of work needs less than its longest path, so this is the best bound there is.
    assert peak <= max(kv_budget, plan.longest_context)


@settings(deadline=None)
@given(case=loo_cases(), kv_budget=budgets, batch_tokens=budgets)
def test_batches_hold_every_segment_once_within_their_limit(
    case: LooCase, kv_budget: int, batch_tokens: int
) -> None:
    plan = case.plan(1, kv_budget, batch_tokens)
    assert sorted(plan.batch_segments.tolist()) == list(range(plan.n_segments))
    for segments in batches_of(plan):
        assert segments
        assert len(segments) == 1 or plan.n_tokens[segments].sum() <= batch_tokens


def test_roomy_budget_runs_one_batch_per_level() -> None:
    plan = LooCase(demonstrations=(7,) * 32, root_tokens=1, tail_parents=(-1,)).plan()
    assert plan.n_batches == 1 + 5 + 1
    depth = [sum(1 for _ in ancestors(plan, s)) for s in range(plan.n_segments)]
    for level, segments in enumerate(batches_of(plan)):
        assert {depth[s] for s in segments} == {level}


def test_tight_budget_goes_depth_first() -> None:
    case = LooCase(demonstrations=(7,) * 32)
    wide = case.plan()
    tight = case.plan(kv_budget_tokens=wide.longest_context)
    assert tight.peak_kv_tokens == tight.longest_context < wide.peak_kv_tokens
    assert tight.total_tokens == wide.total_tokens
    assert tight.n_batches > wide.n_batches


def test_budget_in_between_batches_whole_subtrees() -> None:
    case = LooCase(demonstrations=(7,) * 64)
    batches = [case.plan(kv_budget_tokens=b).n_batches for b in (500, 700, 1000, 2000, 1 << 30)]
    assert batches == sorted(batches, reverse=True)
    assert len(set(batches)) == len(batches)


def test_infeasible_budget_still_plans_and_reports_its_peak() -> None:
    plan = LooCase(demonstrations=(7,) * 16).plan(kv_budget_tokens=1)
    assert plan.peak_kv_tokens == plan.longest_context > 1


def test_queries_of_one_context_share_batches_under_a_budget() -> None:
    """Queries that do not fit together run in groups, not one by one."""
    case = LooCase(
        demonstrations=(10,) * 104, queries=(10,) * 104, labelled=(True,) * 4 + (False,) * 100
    )
    plan = case.plan(kv_budget_tokens=40 + 250)
    shared = plan.parent[plan.query_segment(103)]
    sizes = [len(b) for b in batches_of(plan) if plan.parent[b[-1]] == shared]
    assert max(sizes) >= 20
    assert plan.peak_kv_tokens <= 290


def test_long_segment_runs_in_a_batch_of_its_own() -> None:
    case = LooCase(demonstrations=(5,) * 4, queries=(3, 90, 3, 3), labelled=(False,) * 4)
    plan = case.plan(batch_tokens=10)
    assert [plan.n_tokens[b].tolist() for b in batches_of(plan)] == [[3], [90], [3, 3]]
