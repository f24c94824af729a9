"""Planning a leave-one-out pass; it runs before every evaluation, so it must cost little."""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from icm_fast import _core
from icm_fast.plan.uniform import uniform_plan

TOKENS = 40


def plan(n: int) -> _core.TreePlan:
    return uniform_plan(n, demonstration=TOKENS, query=TOKENS - 1, root=1)


@pytest.mark.parametrize("n", [32, 256])
def test_plan_tree(benchmark: BenchmarkFixture, n: int) -> None:
    tree = benchmark(plan, n)
    assert tree.n_demonstration_encodings <= 1.01 * n * np.log2(n)
    benchmark.extra_info["tokens"] = tree.total_tokens
    benchmark.extra_info["tokens of whole prompts"] = tree.naive_tokens
