"""Contexts of a bounded number of demonstrations."""

import numpy as np
import pytest

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.scoring.bounded import BoundedScorer, ring_of_blocks
from icm_fast.scoring.factory import make_scorer
from icm_fast.scoring.local import TreeScorer
from icm_fast.types import Dataset, Example
from reference import reference_leave_one_out
from tiny_models import (
    MULTI,
    SINGLE,
    byte_tokenizer,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
    tiny_model,
)


def many(n, labels=SINGLE):
    """Reviews, again and again, each with its number."""
    few = reviews(labels)
    examples = tuple(Example(f"{i}", f"{few.examples[i % len(few)].prompt}") for i in range(n))
    return Dataset(examples, few.label_space, name="many")


@pytest.mark.parametrize("n", [1, 2, 5, 16, 17, 40])
@pytest.mark.parametrize("bound", [1, 2, 3, 8, 15])
def test_blocks_hold_every_example_once_and_two_of_them_fit(n, bound):
    blocks = ring_of_blocks(n, bound, seed=3)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(n))
    sizes = [len(block) for block in blocks]
    assert max(sizes) - min(sizes) <= 1
    if len(blocks) > 1:
        pairs = zip(sizes, sizes[1:] + sizes[:1], strict=True)
        assert max(own - 1 + after for own, after in pairs) <= bound
    assert [b.tolist() for b in blocks] == [b.tolist() for b in ring_of_blocks(n, bound, seed=3)]


@pytest.mark.parametrize("labels", [SINGLE, MULTI])
def test_scores_are_those_of_prompts_with_these_demonstrations(labels):
    dataset = reviews(labels)
    given = mixed_labels(dataset)
    loaded = tiny_loaded("llama", bos=True)
    scorer = make_scorer(loaded, dataset, SearchConfig(context_demonstrations=4))
    assert isinstance(scorer, BoundedScorer)
    scored = scorer.score(given)
    assert scored.n_tokens == scorer.predict_tokens(given)
    for k, block in enumerate(scorer.blocks):
        shown, queries = scorer._shown(given, k)
        plan = scorer._tree.plan(shown, queries)
        seen = set(block) | set(scorer.blocks[(k + 1) % len(scorer.blocks)])
        expected = reference_leave_one_out(
            dataset, shown, model=loaded.model, tokenizer=loaded.tokenizer, orders=plan.contexts
        )
        assert np.abs(scored.scores[block] - expected[block]).max() <= 1e-4
        for i in block:
            others = {int(j) for j in seen if given[j] >= 0 and j != i}
            assert set(plan.contexts[i].tolist()) == others
            assert len(others) <= 4


def test_it_costs_less_and_runs_where_all_do_not_fit():
    dataset = many(40)
    labels = mixed_labels(dataset, unlabelled=())
    loaded = tiny_loaded("llama")
    with pytest.raises(InputError, match="context_demonstrations"):
        make_scorer(loaded, dataset, SearchConfig(context_limit=200))
    config = SearchConfig(context_limit=200, context_demonstrations=8)
    scorer = make_scorer(loaded, dataset, config)
    assert np.isfinite(scorer.score(labels).scores).all()
    whole = make_scorer(loaded, dataset, SearchConfig())
    assert scorer.predict_tokens(labels) < whole.predict_tokens(labels)
    with pytest.raises(InputError, match="smaller context_demonstrations"):
        make_scorer(loaded, dataset, SearchConfig(context_limit=60, context_demonstrations=8))


def test_a_bound_that_all_fit_is_the_exact_scorer():
    dataset = reviews(SINGLE)
    config = SearchConfig(context_demonstrations=len(dataset) - 1)
    assert isinstance(make_scorer(tiny_loaded("llama"), dataset, config), TreeScorer)


def test_rows_stop_and_order():
    dataset = many(40)
    labels = mixed_labels(dataset, unlabelled=())
    scorer = make_scorer(tiny_loaded("llama"), dataset, SearchConfig(context_demonstrations=8))
    whole = scorer.score(labels)
    rows = np.arange(40) % 3 == 0
    part = scorer.score_rows(labels, rows)
    assert np.array_equal(part.scores[rows], whole.scores[rows])
    assert np.isnan(part.scores[~rows]).all()
    priority = np.where(np.isin(np.arange(40), scorer.blocks[3]), -1.0, 0.0)
    stopped = scorer.score_rows(
        labels, np.ones(40, np.bool_), enough=lambda scores: True, priority=priority
    )
    scored = np.flatnonzero(np.isfinite(stopped.scores).all(axis=1))
    assert scored.tolist() == scorer.blocks[3].tolist()


def test_a_search_beyond_the_window(tmp_path):
    dataset = many(40)
    config = SearchConfig(context_limit=200, context_demonstrations=8, max_evaluations=4)
    result = icm_fast.search(
        dataset, model=tiny_loaded("llama"), config=config, output_dir=tmp_path
    )
    assert (result.labels >= 0).all()


def test_it_excludes_what_it_cannot_do():
    with pytest.raises(InputError, match="context_order=append"):
        SearchConfig(context_order="append", context_demonstrations=4)
    with pytest.raises(InputError, match="scorer=tree"):
        SearchConfig(scorer="naive", context_demonstrations=4)
    with pytest.raises(InputError, match="no single plan"):
        icm_fast.plan_leave_one_out(
            reviews(SINGLE),
            mixed_labels(reviews(SINGLE)),
            model=(tiny_model("llama"), byte_tokenizer()),
            config=SearchConfig(context_demonstrations=3),
        )
