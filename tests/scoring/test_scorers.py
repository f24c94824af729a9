"""``tree`` equals ``naive`` equals plain model calls, on the same context orders."""

from dataclasses import replace

import numpy as np
import pytest

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.model import load_model
from icm_fast.scoring.factory import make_scorer
from reference import reference_leave_one_out
from tiny_models import (
    MULTI,
    PREFIX,
    SINGLE,
    WAYS,
    byte_tokenizer,
    metaspace_tokenizer,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
    tiny_model,
)

TOLERANCE = 1e-4
LABELS = {"single": SINGLE, "multi": MULTI, "prefix": PREFIX}
# Depth-first: a few demonstrations of keys and values at a time, one or two segments per batch.
TIGHT = {"kv_budget_tokens": 120, "batch_tokens": 40}


def differences(loaded, dataset, labels, **settings):
    """Largest differences of tree and naive from the oracle, after checking the token counts."""
    config = SearchConfig(**settings)
    tree = make_scorer(loaded, dataset, config)
    naive = make_scorer(loaded, dataset, replace(config, scorer="naive"))
    plan = tree.plan(labels)
    oracle = reference_leave_one_out(
        dataset,
        labels,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        orders=plan.contexts,
        normalize=config.normalize,
    )
    worst = []
    for scorer in (tree, naive):
        scored = scorer.score(labels)
        assert scored.scores.dtype == np.float32
        assert scored.n_tokens == scorer.predict_tokens(labels)
        worst.append(float(np.abs(scored.scores - oracle).max()))
    assert tree.predict_tokens(labels) == plan.n_tokens
    assert np.ptp(oracle, axis=0).max() > 0.1, "the model scores all contexts alike"
    return worst


@pytest.fixture(scope="module", params=WAYS)
def loaded(request):
    return tiny_loaded(*WAYS[request.param])


@pytest.mark.parametrize("normalize", ["labels", "vocabulary"])
@pytest.mark.parametrize("kind", LABELS)
def test_every_family_scores_like_plain_calls(loaded, kind, normalize):
    dataset = reviews(LABELS[kind], n=6)
    worst = differences(loaded, dataset, mixed_labels(dataset), normalize=normalize)
    assert max(worst) <= TOLERANCE


@pytest.mark.parametrize("kind", ["single", "prefix"])
def test_every_family_depth_first(loaded, kind):
    dataset = reviews(LABELS[kind])
    labels = mixed_labels(dataset, unlabelled=())
    roomy, tight = SearchConfig(), SearchConfig(**TIGHT)
    plans = [make_scorer(loaded, dataset, config).plan(labels) for config in (roomy, tight)]
    assert plans[1].tree.n_batches > plans[0].tree.n_batches + 3
    assert plans[1].tree.pool_tokens < plans[0].tree.pool_tokens
    assert max(differences(loaded, dataset, labels, **TIGHT)) <= TOLERANCE


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("n_labelled", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("kind", LABELS)
def test_every_number_of_labelled_examples(kind, n_labelled, bos):
    dataset = reviews(LABELS[kind], n=5)
    labels = mixed_labels(dataset, unlabelled=tuple(range(n_labelled, len(dataset))))
    loaded = tiny_loaded("gemma3_text", bos=bos)
    assert max(differences(loaded, dataset, labels)) <= TOLERANCE


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("n_labelled", [0, 1, 5])
def test_tokenizer_with_a_first_piece_of_its_own(kind, n_labelled, bos):
    dataset = reviews(LABELS[kind], n=5)
    labels = mixed_labels(dataset, unlabelled=tuple(range(n_labelled, len(dataset))))
    loaded = load_model((tiny_model("llama"), metaspace_tokenizer(bos)))
    assert max(differences(loaded, dataset, labels)) <= TOLERANCE


def test_queries_choose_the_rows():
    dataset = reviews(MULTI)
    labels = mixed_labels(dataset)
    queries = np.arange(len(dataset)) % 3 == 0
    for name in ("tree", "naive"):
        scorer = make_scorer(tiny_loaded("qwen3"), dataset, SearchConfig(scorer=name))
        scored = scorer.score(labels, queries)
        assert np.isnan(scored.scores[~queries]).all()
        assert scored.n_tokens == scorer.predict_tokens(labels, queries)
        plan = scorer.plan(labels, queries)
        oracle = reference_leave_one_out(
            dataset,
            labels,
            model=tiny_model("qwen3"),
            tokenizer=byte_tokenizer(),
            orders=[plan.contexts[i] if queries[i] else [] for i in range(len(dataset))],
        )
        assert np.abs(scored.scores - oracle)[queries].max() <= TOLERANCE


def test_scores_are_log_probabilities():
    dataset = reviews(PREFIX)
    labels = mixed_labels(dataset)
    loaded = tiny_loaded("llama")
    by_label = make_scorer(loaded, dataset, SearchConfig()).score(labels).scores
    config = SearchConfig(normalize="vocabulary")
    by_vocabulary = make_scorer(loaded, dataset, config).score(labels).scores
    assert np.allclose(np.exp(by_label).sum(1), 1, atol=1e-5)
    assert (np.exp(by_vocabulary).sum(1) < 1).all()
    shift = by_vocabulary - by_label
    assert np.ptp(shift, axis=1).max() < 1e-4


def test_own_label_does_not_reach_its_score():
    dataset = reviews()
    labels = mixed_labels(dataset, unlabelled=())
    scorer = make_scorer(tiny_loaded("llama"), dataset, SearchConfig())
    before = scorer.score(labels).scores
    flipped = labels.copy()
    flipped[3] = 1 - flipped[3]
    after = scorer.score(flipped).scores
    assert np.array_equal(before[3], after[3])
    assert np.abs(before - after)[np.arange(len(dataset)) != 3].max() > 1e-2


def test_search_equals_the_reference_search():
    from reference import reference_search

    dataset = reviews(PREFIX, n=6)
    loaded = tiny_loaded("gemma2", bos=True)
    config = SearchConfig(
        start="random", n_initial=3, max_evaluations=8, seed=5, second_opinion=False
    )
    scorer = make_scorer(loaded, dataset, config)
    reference = reference_search(
        dataset,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        config=config,
        orders=lambda labels: scorer.plan(labels).contexts,
    )
    result = icm_fast.search(dataset, model=loaded, config=config)
    assert len(reference.asked) > 3
    assert np.array_equal(result.labels, reference.labels)
    assert result.n_evaluations == len({labels.tobytes() for labels in reference.asked})
    assert np.abs(result.scores - reference.scores).max() <= TOLERANCE
    assert result.utility == pytest.approx(reference.utility, abs=50 * TOLERANCE)
    tokens = {labels.tobytes(): scorer.predict_tokens(labels) for labels in reference.asked}
    assert result.n_tokens_forwarded == sum(tokens.values())


def test_context_too_long_names_the_largest_n_that_fits():
    dataset = reviews()
    loaded = tiny_loaded("llama")
    config = SearchConfig(context_limit=90)
    with pytest.raises(InputError, match=r"8 examples need contexts of \d+ tokens.*limit is 90"):
        make_scorer(loaded, dataset, config)
    message = _refusal_of(loaded, dataset, config)
    fitting = int(message.split("largest n that fits is ")[1].split(":")[0])
    assert 1 < fitting < len(dataset)
    make_scorer(loaded, dataset.subset(range(fitting)), config)
    assert "fits is" in _refusal_of(loaded, dataset.subset(range(fitting + 1)), config)


def _refusal_of(loaded, dataset, config):
    with pytest.raises(InputError) as caught:
        make_scorer(loaded, dataset, config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_context_limit_is_never_exceeded():
    """The bound that the check uses holds for every labelling."""
    from icm_fast.scoring.factory import longest_context

    loaded = tiny_loaded("llama", bos=True)
    for labels in LABELS.values():
        dataset = reviews(labels)
        scorer = make_scorer(loaded, dataset, SearchConfig())
        bound = longest_context(scorer.plan(mixed_labels(dataset)).pieces, len(dataset))
        for state in (mixed_labels(dataset, ()), np.full(8, 1, np.int32), mixed_labels(dataset)):
            assert scorer.plan(state).tree.longest_context <= bound


def test_not_even_one_example_fits():
    message = _refusal_of(tiny_loaded("llama"), reviews(), SearchConfig(context_limit=5))
    assert "the first example alone needs" in message


def test_model_length_is_the_default_limit():
    loaded = tiny_loaded("llama", max_position_embeddings=64)
    assert "the limit is 64" in _refusal_of(loaded, reviews(), SearchConfig())
