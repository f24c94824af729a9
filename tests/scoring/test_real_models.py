"""SmolLM2 and Gemma: shared prefixes in float32 and bfloat16 against whole prompts in float32."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import icm_fast
from icm_fast.assets.locate import MOVIE_GROUND_TRUTH, movie_review_file
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.model import load_model
from icm_fast.model.hardware import fast_bfloat16
from icm_fast.scoring.factory import make_scorer
from reference import reference_leave_one_out

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def by_length():
    """Some reviews, the shortest first."""
    try:
        movie_review_file(MOVIE_GROUND_TRUTH)
    except InputError as error:
        pytest.skip(str(error))
    dataset, _ = icm_fast.load_task("movie-sentiment", limit=60, seed=0)
    return dataset.subset(
        sorted(range(len(dataset)), key=lambda i: len(dataset.examples[i].prompt))
    )


@pytest.fixture(scope="module")
def movies(by_length):
    """Few: the oracle forwards every context whole."""
    return by_length.subset(range(7))


LABELS = np.array([0, 1, -1, 1, 0, 1, 0], np.int32)


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def scored(request, movies):
    """A model, its scorer in float32 and the oracle's scores over the vocabulary."""
    loaded = request.getfixturevalue(request.param)
    scorer = make_scorer(loaded, movies, SearchConfig(normalize="vocabulary"))
    oracle = reference_leave_one_out(
        movies,
        LABELS,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        orders=scorer.plan(LABELS).contexts,
        normalize="vocabulary",
    )
    return loaded, scorer, oracle


def test_tree_equals_plain_calls(scored, movies):
    loaded, scorer, oracle = scored
    result = scorer.score(LABELS)
    assert result.n_tokens == scorer.plan(LABELS).n_tokens
    assert np.abs(result.scores - oracle).max() <= 1e-4
    config = replace(SearchConfig(normalize="vocabulary"), kv_budget_tokens=300, batch_tokens=100)
    depth_first = make_scorer(loaded, movies, config).score(LABELS)
    assert np.abs(depth_first.scores - oracle).max() <= 1e-4


def test_pieces_are_whole_text_and_gemma_has_bos(scored, movies):
    loaded, scorer, _ = scored
    plan = scorer.plan(LABELS)
    expected = "".join(
        movies.examples[j].prompt + movies.label_space[int(LABELS[j])] + "\n\n"
        for j in plan.contexts[0]
    )
    whole = loaded.tokenizer(expected + movies.examples[0].prompt)["input_ids"]
    assert plan.prompt_ids(0) == list(whole)
    assert len(plan.pieces.root) == (loaded.model.config.model_type == "gemma3_text")


def test_bfloat16_is_near_float32(scored, by_length):
    """Against our own float32, which the tests above hold against plain calls."""
    loaded = scored[0]
    # Products in bfloat16 are emulated on many processors: more reviews would take minutes there.
    few = not fast_bfloat16()
    dataset = by_length.subset(range(7 if few else 24))
    labels = np.resize(LABELS, len(dataset))
    with torch.inference_mode():
        half = copy.deepcopy(loaded.model).to(torch.bfloat16)
    pair = load_model((half, loaded.tokenizer))
    whole, rounded = (
        make_scorer(model, dataset, SearchConfig()).score(labels) for model in (loaded, pair)
    )
    difference = np.abs(rounded.scores - whole.scores)
    print(f"bfloat16: median {np.median(difference):.4f}, max {difference.max():.4f}")
    # The shortest reviews with few demonstrations are the most sensitive ones.
    assert np.median(difference) <= (3e-2 if few else 1e-2)
    assert difference.max() <= 1e-1
