"""Planning a leave-one-out pass; it runs before every evaluation, so it must cost little."""

from __future__ import annotations

import numpy as np
import pytest

from icm_fast import _core

TOKENS = 40


def plan(n: int) -> _core.TreePlan:
    lengths = np.full(n, TOKENS, np.int64)
    none = np.zeros(n, np.int64)
    return _core.plan_tree(
        demonstration_tokens=lengths,
        first_extra=none,
        query_tokens=lengths - 1,
        query_first_extra=none,
        labelled=np.ones(n, np.bool_),
        queried=np.ones(n, np.bool_),
        root_tokens=1,
        tail_parents=np.zeros(0, np.int32),
        seed=0,
        kv_budget_tokens=1 << 16,
        batch_tokens=1 << 12,
    )


@pytest.mark.parametrize("n", [32, 256])
def test_plan_tree(benchmark, n):
    tree = benchmark(plan, n)
    assert tree.n_demonstration_encodings <= 1.01 * n * np.log2(n)
    benchmark.extra_info["tokens"] = tree.total_tokens
    benchmark.extra_info["tokens of the naive way"] = tree.naive_tokens
