"""Operations counted by hand."""

import numpy as np
import pytest

from benchmarks.engines.flops import keys_seen, layer_weights, layer_windows, plan_flops
from benchmarks.engines.workload import make_workload
from icm_fast.config import SearchConfig
from icm_fast.scoring.factory import make_scorer
from tiny_models import (
    FAMILIES,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
    tiny_model,
)


def integers(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("start", "length", "window", "expected"),
    [
        (0, 3, None, 1 + 2 + 3),
        (5, 2, None, 6 + 7),
        (0, 4, 2, 1 + 2 + 2 + 2),
        (5, 2, 3, 3 + 3),
        (1, 3, 3, 2 + 3 + 3),
        (0, 1, 1, 1),
    ],
)
def test_keys_seen_by_one_segment(start, length, window, expected):
    assert keys_seen(integers(start), integers(length), window) == expected


def test_keys_seen_add_up_over_segments():
    assert keys_seen(integers(0, 3, 3), integers(3, 2, 1), None) == 6 + (4 + 5) + 4


def test_plan_flops_by_hand(tiny_case):
    workload = make_workload(tiny_case)
    tree = workload.plan.tree
    hidden, intermediate, heads, kv_heads, width, layers = 32, 48, 4, 2, 8, 2
    weights = hidden * width * (2 * heads + 2 * kv_heads) + 3 * hidden * intermediate
    flops = plan_flops(workload.plan, workload.config)
    assert flops.linear == 2 * layers * weights * workload.plan.n_tokens
    keys = sum(
        position + 1
        for start, n in zip(tree.start.tolist(), tree.n_tokens.tolist(), strict=True)
        for position in range(start, start + n)
    )
    assert flops.attention == 4 * heads * width * keys * layers
    assert flops.total == flops.linear + flops.attention


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_are_those_of_the_models_layers(family):
    dataset = reviews(n=4)
    scorer = make_scorer(tiny_loaded(family, True), dataset, SearchConfig())
    scorer.score(mixed_labels(dataset))
    seen = scorer.runner.windows
    expected = [seen[layer] or None for layer in sorted(seen)]
    assert layer_windows(tiny_model(family).config) == expected


def test_weights_are_counted_on_no_memory():
    model = tiny_model("gpt_neox")
    matrices = [p for layer in model.base_model.layers for p in layer.parameters() if p.ndim == 2]
    assert layer_weights(model.config) == sum(p.numel() for p in matrices)
