from dataclasses import replace

import numpy as np
import pytest

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.types import check_labels
from reference import natural_orders, reference_leave_one_out
from tiny_models import (
    MULTI,
    byte_tokenizer,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_model,
)


@pytest.fixture(scope="module")
def pair():
    return tiny_model("llama"), byte_tokenizer(bos=True)


@pytest.mark.parametrize("preamble", ["", "Is the film good or bad?\n\nLabels:\n- good\n- bad"])
@pytest.mark.parametrize("unlabelled", [False, True])
def test_tree_and_naive_and_oracle_agree(pair, preamble, unlabelled):
    dataset = replace(reviews(MULTI), preamble=preamble)
    labels = np.full(len(dataset), -1) if unlabelled else mixed_labels(dataset)
    plan = icm_fast.plan_leave_one_out(dataset, labels, model=pair, seed=4)
    oracle = reference_leave_one_out(
        dataset, labels, model=pair[0], tokenizer=pair[1], orders=plan.contexts
    )
    for name in ("tree", "naive"):
        scores = icm_fast.leave_one_out(dataset, labels, model=pair, scorer=name, seed=4)
        assert scores.dtype == np.float32
        assert scores.shape == (len(dataset), len(MULTI))
        assert np.abs(scores - oracle).max() <= 1e-4


def test_a_preamble_costs_its_tokens_once(pair):
    dataset, text = reviews(), "Is the film good or bad"
    n_tokens = len(pair[1](text, add_special_tokens=False)["input_ids"])
    for labels in (mixed_labels(dataset), [-1] * len(dataset)):
        plain, more = (
            icm_fast.plan_leave_one_out(replace(dataset, preamble=p), labels, model=pair)
            for p in ("", text)
        )
        moved = sum(
            len(p) - len(q)
            for p, q in zip(more.pieces.first_prompts, plain.pieces.first_prompts, strict=True)
        )
        assert 0 <= more.n_tokens - plain.n_tokens - n_tokens <= moved
        assert more.naive_tokens - plain.naive_tokens > 6 * n_tokens


def test_contexts_hold_all_other_labelled_examples_once(pair):
    dataset = reviews()
    labels = mixed_labels(dataset)
    plan = icm_fast.plan_leave_one_out(dataset, labels, model=pair)
    for i, (order, expected) in enumerate(zip(plan.contexts, natural_orders(labels), strict=True)):
        assert i not in order
        assert sorted(order.tolist()) == expected


def test_plan_without_a_label_is_zero_shot(pair):
    plan = icm_fast.plan_leave_one_out(reviews(), [-1] * 8, model=pair)
    assert all(len(order) == 0 for order in plan.contexts)
    assert plan.prompt_ids(0) == pair[1](reviews().examples[0].prompt)["input_ids"]


def test_seed_changes_the_orders_and_nothing_else_does(pair):
    dataset, labels = reviews(), mixed_labels(reviews())
    orders = [
        [order.tolist() for order in plan.contexts]
        for plan in (
            icm_fast.plan_leave_one_out(dataset, labels, model=pair, seed=seed)
            for seed in (1, 1, 2)
        )
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_tree_costs_less_than_naive(pair):
    plan = icm_fast.plan_leave_one_out(reviews(), mixed_labels(reviews(), ()), model=pair)
    assert plan.n_tokens < 0.75 * plan.naive_tokens


def test_config_counts_instead_of_the_seed(pair):
    dataset, labels = reviews(), mixed_labels(reviews())
    config = SearchConfig(seed=2)
    plan = icm_fast.plan_leave_one_out(dataset, labels, model=pair, seed=1, config=config)
    scores = icm_fast.leave_one_out(dataset, labels, model=pair, seed=1, config=config)
    oracle = reference_leave_one_out(
        dataset, labels, model=pair[0], tokenizer=pair[1], orders=plan.contexts
    )
    assert np.abs(scores - oracle).max() <= 1e-4
    first, second = (
        icm_fast.plan_leave_one_out(dataset, labels, model=pair, seed=seed) for seed in (1, 2)
    )
    contexts = [[order.tolist() for order in p.contexts] for p in (plan, second, first)]
    assert contexts[0] == contexts[1] != contexts[2]


def test_example_that_is_not_queried_has_no_prompt(pair):
    from icm_fast.model import load_model
    from icm_fast.scoring.factory import make_scorer

    scorer = make_scorer(load_model(pair), reviews(), SearchConfig())
    queries = np.arange(8) != 3
    with pytest.raises(InputError, match="example 3 is not queried"):
        scorer.plan(mixed_labels(reviews()), queries).prompt_ids(3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"labels has shape \[2\], but the data set has 8 examples"),
        (np.zeros((8, 1), int), r"labels has shape \[8, 1\]"),
        ([0.0] * 8, "labels has dtype float64; pass integers"),
        ([True] * 8, "labels has dtype bool"),
        ([0] * 7 + [2], r"label 2 of example 'r7' \(row 7\) is outside -1 .. 1"),
        ([0, -2] + [0] * 6, r"label -2 of example 'r1' \(row 1\)"),
    ],
)
def test_labels_that_do_not_fit(pair, labels, message):
    with pytest.raises(InputError, match=message) as caught:
        icm_fast.leave_one_out(reviews(), labels, model=pair)
    assert "\n" not in str(caught.value)


def test_labels_of_any_integer_type():
    for dtype in (np.int8, np.int64, np.uint8):
        assert check_labels(np.zeros(8, dtype), reviews()).dtype == np.int32
    big = np.full(8, 2**33 + 1)  # 1, were it cut to 32 bits first
    with pytest.raises(InputError, match="outside"):
        check_labels(big, reviews())


def test_unknown_scorer(pair):
    with pytest.raises(InputError, match="did you mean 'tree'"):
        icm_fast.leave_one_out(reviews(), [0] * 8, model=pair, scorer="trie")
