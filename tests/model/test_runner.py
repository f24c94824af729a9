import numpy as np
import pytest

from forward_cases import check_whole_texts, plan_of, states
from icm_fast.config import SearchConfig
from icm_fast.model import ModelRunner
from icm_fast.model.forward.cpu import CpuForward
from icm_fast.model.forward.generic import GenericForward
from icm_fast.model.forward.runner import make_forward
from icm_fast.scoring.factory import make_scorer
from tiny_models import (
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
)


@pytest.fixture(scope="module", params=["native", "generic"])
def loaded(request):
    loaded = tiny_loaded("llama", request.param == "generic", bos=True)
    forward = make_forward(loaded, generic=False)
    assert isinstance(forward, CpuForward if request.param == "native" else GenericForward)
    return loaded


def run(loaded, plan):
    runner = ModelRunner(loaded)
    return runner, states(runner, plan)


def test_tokens_forwarded_are_those_of_the_plan(loaded):
    for settings in ({}, {"kv_budget_tokens": 100, "batch_tokens": 30}):
        plan = plan_of(loaded, **settings)
        runner, _ = run(loaded, plan)
        assert runner.n_tokens_forwarded == plan.n_tokens


def test_every_segment_ends_in_the_state_of_its_whole_text(loaded):
    plan = plan_of(loaded, kv_budget_tokens=100, batch_tokens=30)
    _, found = run(loaded, plan)
    check_whole_texts(loaded, plan, found)


def test_small_budget_holds_fewer_bytes(loaded):
    roomy, _ = run(loaded, plan_of(loaded))
    tight, _ = run(loaded, plan_of(loaded, kv_budget_tokens=100))
    assert 0 < tight.peak_kv_bytes < roomy.peak_kv_bytes
    # 2 layers, keys and values, 2 heads of 8 floats.
    assert tight.peak_kv_bytes % (2 * 2 * 2 * 8 * 4) == 0


def test_budgets_do_not_change_the_scores(loaded):
    scores = [
        make_scorer(loaded, reviews(), SearchConfig(**settings)).score(mixed_labels(reviews()))
        for settings in ({}, {"kv_budget_tokens": 1, "batch_tokens": 1})
    ]
    assert np.abs(scores[0].scores - scores[1].scores).max() <= 1e-5
    assert scores[0].n_tokens == scores[1].n_tokens


def test_tokens_that_the_plan_does_not_expect_are_noticed(loaded):
    plan = plan_of(loaded)
    with pytest.raises(AssertionError, match="planned"):
        ModelRunner(loaded).last_hidden_states(
            plan.tree, lambda s: [*plan.segment_ids(s), 1], plan.tree.query >= 0
        )


def test_repeated_scores_are_equal_bit_for_bit(loaded):
    scorer = make_scorer(loaded, reviews(), SearchConfig())
    labels = mixed_labels(reviews())
    assert np.array_equal(scorer.score(labels).scores, scorer.score(labels).scores)
