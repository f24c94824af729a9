"""The leave-one-out tree: right contexts, least tokens, seeded orders."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loo_case import LooCase, ancestors, demos_of, huffman_cost, loo_cases, recount

from icm_fast import _core

GOLDEN = Path(__file__).parent.parent / "golden" / "loo_plan_small.json"
ARRAYS = (
    "parent",
    "demo_offsets",
    "demos",
    "query",
    "tail",
    "n_tokens",
    "start",
    "kv_offset",
    "has_root_token",
    "batch_offsets",
    "batch_segments",
    "query_segments",
)
COUNTS = (
    "total_tokens",
    "naive_tokens",
    "n_demonstration_encodings",
    "longest_context",
    "peak_kv_tokens",
    "pool_tokens",
    "n_segments",
    "n_batches",
)


def equal_lengths(n: int) -> LooCase:
    return LooCase(demonstrations=(7,) * n)


@settings(deadline=None)
@given(case=loo_cases(), seed=st.integers(0, 2**64 - 1))
def test_context_is_a_permutation_of_all_other_labelled(case: LooCase, seed: int) -> None:
    plan = case.plan(seed)
    for i in case.where(queried=True):
        others = [j for j in case.where(labelled=True) if j != i]
        assert sorted(plan.context(i).tolist()) == others


@settings(deadline=None)
@given(case=loo_cases(), seed=st.integers(0, 99))
def test_tokens_equal_a_recount_from_the_segments(case: LooCase, seed: int) -> None:
    plan = case.plan(seed)
    tokens = [recount(case, plan, s) for s in range(plan.n_segments)]
    assert plan.n_tokens.tolist() == tokens
    assert plan.total_tokens == sum(tokens)
    starts = [sum(tokens[a] for a in ancestors(plan, s)) for s in range(plan.n_segments)]
    assert plan.start.tolist() == starts
    ends = [start + size for start, size in zip(starts, tokens, strict=True)]
    assert plan.longest_context == max(ends, default=0)


@settings(deadline=None)
@given(case=loo_cases(), seed=st.integers(0, 99))
def test_naive_tokens_are_whole_prompts_in_the_same_orders(case: LooCase, seed: int) -> None:
    plan = case.plan(seed)
    prompts = {i: case.prompt_tokens(plan.context(i).tolist(), i) for i in case.where(queried=True)}
    assert plan.naive_tokens == sum(prompts.values()) + len(prompts) * len(case.tail_parents)
    for i, tokens in prompts.items():
        segment = plan.query_segment(i)
        assert plan.start[segment] + plan.n_tokens[segment] == tokens


@settings(deadline=None)
@given(case=loo_cases(), seed=st.integers(0, 99))
def test_segments_are_well_formed(case: LooCase, seed: int) -> None:
    plan = case.plan(seed)
    assert (plan.parent < np.arange(plan.n_segments)).all()
    assert (plan.n_tokens >= 1).all()
    assert plan.n_demonstration_encodings == plan.demos.size == plan.demo_offsets[-1]
    if case.root_tokens and plan.n_segments:
        assert plan.has_root_token.tolist() == [1] + [0] * (plan.n_segments - 1)
        assert (plan.parent[1:] >= 0).all()
    else:
        assert not plan.has_root_token.any()
    prompts = [s for s in range(plan.n_segments) if plan.query[s] >= 0 and plan.tail[s] < 0]
    assert sorted(plan.query[prompts].tolist()) == case.where(queried=True)
    for s in prompts:
        assert plan.query_segment(int(plan.query[s])) == plan.query_segments[plan.query[s]] == s


@settings(deadline=None)
@given(case=loo_cases(), seed=st.integers(0, 99))
def test_every_query_ends_in_the_whole_tail(case: LooCase, seed: int) -> None:
    plan = case.plan(seed)
    for i in case.where(queried=True):
        at = {-1: plan.query_segment(i)}
        for s in range(plan.n_segments):
            if plan.query[s] == i and plan.tail[s] >= 0:
                at[int(plan.tail[s])] = s
        assert sorted(at) == list(range(-1, len(case.tail_parents)))
        for k, parent in enumerate(case.tail_parents):
            assert plan.parent[at[k]] == at[parent]
            assert plan.n_tokens[at[k]] == 1


@settings(deadline=None)
@given(
    demonstrations=st.lists(st.integers(1, 500), min_size=1, max_size=40).map(tuple),
    n_unlabelled=st.integers(0, 3),
    n_common=st.integers(0, 3),
    n_tail=st.integers(0, 2),
)
def test_cost_is_the_huffman_optimum(
    demonstrations: tuple[int, ...], n_unlabelled: int, n_common: int, n_tail: int
) -> None:
    n = len(demonstrations)
    case = LooCase(
        demonstrations=demonstrations + (11,) * (n_common + n_unlabelled),
        labelled=(True,) * (n + n_common) + (False,) * n_unlabelled,
        queried=(True,) * n + (False,) * n_common + (True,) * n_unlabelled,
        root_tokens=1,
        tail_parents=(-1,) * n_tail,
    )
    weights = [*demonstrations, 0] if n_unlabelled else demonstrations
    queries = (n + n_unlabelled) * (3 + n_tail)
    assert case.plan().total_tokens == 1 + 11 * n_common + huffman_cost(weights) + queries


@cache
def cheapest_tree(weights: tuple[int, ...]) -> int:
    """Least sum of weight times depth, by trying every binary tree."""
    if len(weights) < 2:
        return 0
    inside = min(
        cheapest_tree(tuple(weights[i] for i in part))
        + cheapest_tree(tuple(w for i, w in enumerate(weights) if i not in part))
        for size in range(1, len(weights) // 2 + 1)
        for part in itertools.combinations(range(len(weights)), size)
    )
    return sum(weights) + inside


@settings(max_examples=40, deadline=None)
@given(demonstrations=st.lists(st.integers(1, 40), min_size=1, max_size=6).map(tuple))
def test_no_binary_tree_is_cheaper(demonstrations: tuple[int, ...]) -> None:
    plan = LooCase(demonstrations=demonstrations).plan()
    assert plan.total_tokens == cheapest_tree(demonstrations) + 3 * len(demonstrations)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 64, 256])
def test_powers_of_two_need_n_log_n_encodings(n: int) -> None:
    assert equal_lengths(n).plan().n_demonstration_encodings == n * int(math.log2(n))


@pytest.mark.parametrize("n", [3, 5, 6, 7, 9, 31, 33, 100, 255, 257])
def test_other_sizes_stay_at_the_optimum(n: int) -> None:
    floor = n.bit_length() - 1
    encodings = equal_lengths(n).plan().n_demonstration_encodings
    assert encodings == n * floor + 2 * (n - 2**floor)
    assert encodings <= 1.01 * n * math.log2(n) + n


def test_thousands_of_examples_plan_quickly() -> None:
    case = equal_lengths(4096)
    began = time.perf_counter()
    plan = case.plan(kv_budget_tokens=50_000, batch_tokens=4096)
    assert time.perf_counter() - began < 1.0
    assert plan.n_demonstration_encodings == 4096 * 12


def test_nothing_queried_plans_nothing() -> None:
    for case in (LooCase(demonstrations=()), LooCase(demonstrations=(5, 5), queried=(False,) * 2)):
        plan = case.plan()
        assert (plan.n_segments, plan.n_batches, plan.total_tokens) == (0, 0, 0)
        assert plan.demo_offsets.tolist() == plan.batch_offsets.tolist() == [0]


@pytest.mark.parametrize("root_tokens", [0, 1, 300])
def test_zero_shot_queries_stand_first(root_tokens: int) -> None:
    plan = LooCase(
        demonstrations=(9, 9),
        queries=(4, 5),
        query_first_extra=(2, -1),
        labelled=(False, False),
        root_tokens=root_tokens,
    ).plan()
    assert plan.n_tokens.tolist() == [root_tokens] * (root_tokens > 0) + [6, 4]
    assert plan.parent.tolist() == ([-1, 0, 0] if root_tokens else [-1, -1])
    assert plan.context(0).size == plan.context(1).size == 0


def test_single_label_is_queried_without_context() -> None:
    plan = LooCase(demonstrations=(9,), queries=(4,), query_first_extra=(1,)).plan()
    assert plan.n_tokens.tolist() == [5]
    assert plan.context(0).tolist() == []


def test_two_labels_see_each_other_in_fused_segments() -> None:
    plan = LooCase(demonstrations=(9, 20), first_extra=(1, -1), queries=(4, 5)).plan()
    assert plan.parent.tolist() == [-1, -1]
    assert plan.n_tokens[plan.query_segment(0)] == 19 + 4
    assert plan.n_tokens[plan.query_segment(1)] == 10 + 5
    assert [demos_of(plan, plan.query_segment(i)) for i in (0, 1)] == [[1], [0]]


def test_single_label_beside_an_unlabelled_query() -> None:
    """The label's own query has no demonstration before it: no empty context segment."""
    case = LooCase(demonstrations=(9, 9), labelled=(True, False), query_first_extra=(2, 2))
    plan = case.plan()
    assert plan.n_segments == 2
    assert plan.n_tokens[plan.query_segment(0)] == 5
    assert plan.n_tokens[plan.query_segment(1)] == 12
    assert plan.context(1).tolist() == [0]


def test_unlabelled_queries_share_one_context() -> None:
    case = LooCase(demonstrations=(9,) * 7, labelled=(True,) * 4 + (False,) * 3)
    plan = case.plan()
    segments = [plan.query_segment(i) for i in (4, 5, 6)]
    assert len(set(plan.parent[segments].tolist())) == 1
    assert all(demos_of(plan, s) == [] for s in segments)
    lone = LooCase(demonstrations=(9,) * 5, labelled=(True,) * 4 + (False,)).plan()
    assert demos_of(lone, lone.query_segment(4)) != []


def test_demonstrations_of_every_context_stand_at_the_root() -> None:
    case = LooCase(
        demonstrations=(9,) * 6,
        first_extra=(1,) * 6,
        queried=(True, True, True, False, False, False),
        root_tokens=1,
    )
    plan = case.plan()
    assert sorted(demos_of(plan, 0)) == [3, 4, 5]
    assert plan.n_tokens[0] == 1 + 27 + 1
    assert {tuple(plan.context(i)[:3].tolist()) for i in (0, 1, 2)} == {tuple(demos_of(plan, 0))}
    with pytest.raises(ValueError, match="example 3 is not queried"):
        plan.context(3)


def test_only_unlabelled_queries_need_each_demonstration_once() -> None:
    n = 5
    plan = LooCase(
        demonstrations=(9,) * n, labelled=(True,) * 4 + (False,), queried=(False,) * 4 + (True,)
    ).plan()
    assert plan.n_demonstration_encodings == 4
    assert sorted(plan.context(4).tolist()) == [0, 1, 2, 3]


@settings(deadline=None)
@given(case=loo_cases(), seed=st.integers(0, 2**64 - 1))
def test_plan_is_a_function_of_input_and_seed(case: LooCase, seed: int) -> None:
    first, second = case.plan(seed, 100, 50), case.plan(seed, 100, 50)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_seeds_give_different_orders() -> None:
    orders = {tuple(equal_lengths(16).plan(seed).context(0).tolist()) for seed in range(20)}
    assert len(orders) == 20


def test_orders_are_uniform_over_seeds() -> None:
    n_seeds = 600
    counts = Counter(tuple(equal_lengths(4).plan(s).context(0).tolist()) for s in range(n_seeds))
    assert len(counts) == 6
    deviation = 5 * math.sqrt(n_seeds * (1 / 6) * (5 / 6))
    assert all(abs(count - n_seeds / 6) < deviation for count in counts.values())


def test_budgets_leave_the_contexts_alone() -> None:
    case = equal_lengths(24)
    wide, narrow = case.plan(3), case.plan(3, 60, 10)
    assert all((wide.context(i) == narrow.context(i)).all() for i in range(24))


def test_arrays_are_read_only_and_outlive_the_plan() -> None:
    parent = equal_lengths(8).plan().parent
    assert parent.sum() == equal_lengths(8).plan().parent.sum()
    with pytest.raises(ValueError, match="read-only"):
        parent[0] = 5


def golden_plan() -> _core.TreePlan:
    return LooCase(
        demonstrations=(12, 5, 30, 8, 8, 17, 9, 10),
        first_extra=(1, 0, -1, 1, 1, 0, 1, 1),
        queries=(9, 3, 26, 5, 6, 14, 7, 8),
        query_first_extra=(1,) * 8,
        labelled=(True, True, True, True, True, False, True, False),
        queried=(True, True, True, True, True, True, False, True),
        root_tokens=1,
        tail_parents=(-1, 0),
    ).plan(seed=2026, kv_budget_tokens=150, batch_tokens=64)


def test_small_plan_matches_the_golden_file() -> None:
    plan = golden_plan()
    expected = json.loads(GOLDEN.read_text())
    assert {name: getattr(plan, name).tolist() for name in ARRAYS} == expected["arrays"]
    assert {name: getattr(plan, name) for name in COUNTS} == expected["counts"]
