"""The leave-one-out tree of equally long examples, for costs, probes and benchmarks."""

from __future__ import annotations

import numpy as np

from icm_fast._core import TreePlan, plan_tree


def uniform_plan(
    n: int,
    *,
    demonstration: int,
    query: int,
    n_labelled: int | None = None,
    root: int = 0,
    kv_budget_tokens: int = 1 << 16,
    batch_tokens: int = 1 << 12,
) -> TreePlan:
    """Plan ``n`` queries of equal length.

    Args:
        n: Number of examples, all of them queried.
        demonstration: Tokens of prompt, label and separator.
        query: Tokens of the prompt.
        n_labelled: Number of labelled examples, from the first; all by default.
        root: 1 with a BOS token, otherwise 0.
        kv_budget_tokens: Maximum number of tokens whose keys and values are held at a time.
        batch_tokens: Maximum number of tokens in one forward pass.
    """
    none = np.zeros(n, np.int64)
    return plan_tree(
        demonstration_tokens=np.full(n, demonstration, np.int64),
        first_extra=none,
        query_tokens=np.full(n, query, np.int64),
        query_first_extra=none,
        labelled=np.arange(n) < (n if n_labelled is None else n_labelled),
        queried=np.ones(n, np.bool_),
        root_tokens=root,
        tail_parents=np.zeros(0, np.int32),
        seed=0,
        kv_budget_tokens=kv_budget_tokens,
        batch_tokens=batch_tokens,
    )
