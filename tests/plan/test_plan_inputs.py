"""Wrong sizes end in one clear line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from loo_case import LooCase

from icm_fast import _core


def arguments(**changes: Any) -> dict[str, Any]:
    ones = np.ones(3, np.int64)
    everything = np.ones(3, np.bool_)
    return {
        "demonstration_tokens": ones,
        "first_extra": 0 * ones,
        "query_tokens": ones,
        "query_first_extra": 0 * ones,
        "labelled": everything,
        "queried": everything,
        "root_tokens": 0,
        "tail_parents": np.zeros(0, np.int32),
        "seed": 0,
        "kv_budget_tokens": 100,
        "batch_tokens": 100,
    } | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_extra": np.zeros(2, np.int64)}, "first_extra has 2 entries, but labelled has 3"),
        ({"queried": np.ones(4, np.bool_)}, "queried has 4 entries"),
        ({"query_tokens": np.ones((3, 1), np.int64)}, "query_tokens has 2 dimensions"),
        ({"demonstration_tokens": np.array([1, 0, 1])}, r"demonstration_tokens\[1\] is 0 tokens"),
        ({"first_extra": np.array([0, 0, -1])}, r"demonstration_tokens\[2\] is 1 tokens \(-1 more"),
        ({"query_first_extra": np.array([-5, 0, 0])}, r"query_tokens\[0\] is 1 tokens \(-5 more"),
        ({"query_tokens": np.array([1, 1, 2**40])}, r"query_tokens\[2\] is 1099511627776 tokens"),
        ({"first_extra": np.full(3, -(2**63))}, r"demonstration_tokens\[0\]"),
        ({"root_tokens": -1}, "root_tokens is -1; it must be 0 or more"),
        ({"root_tokens": 2**63 - 1}, "root_tokens is 9223372036854775807; it must be at most"),
        ({"tail_parents": np.array([-1, 1], np.int32)}, r"tail_parents\[1\] is 1; a parent"),
        ({"tail_parents": np.array([-2], np.int32)}, r"tail_parents\[0\] is -2"),
        ({"kv_budget_tokens": 0}, "kv_budget_tokens is 0; it must be 1 token or more"),
        ({"batch_tokens": -4}, "batch_tokens is -4"),
    ],
)
def test_wrong_sizes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        _core.plan_tree(**arguments(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"query_tokens": np.ones(3)},
        {"labelled": np.ones(3, np.int64)},
        {"tail_parents": np.zeros(1, np.int64)},
        {"seed": -1},
    ],
)
def test_lossy_conversions_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        _core.plan_tree(**arguments(**changes))


def test_strided_arrays_are_read_right() -> None:
    tokens = np.array([4, 99, 5, 99, 6, 99])[::2]
    plan = _core.plan_tree(**arguments(query_tokens=tokens, labelled=np.zeros(3, np.bool_)))
    assert plan.n_tokens.tolist() == [4, 5, 6]


def test_sizes_that_do_not_apply_are_ignored() -> None:
    case = LooCase(
        demonstrations=(5, 0), queries=(0, 4), labelled=(True, False), queried=(False, True)
    )
    assert case.plan().total_tokens == 9


@pytest.mark.parametrize("example", [-1, 2])
def test_examples_outside_the_plan_are_refused(example: int) -> None:
    plan = LooCase(demonstrations=(5, 5)).plan()
    for method in (plan.context, plan.query_segment):
        with pytest.raises(ValueError, match=f"example {example} is outside the plan's 2"):
            method(example)
