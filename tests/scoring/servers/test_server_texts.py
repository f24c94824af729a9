"""Texts after labels from servers: those of the weights, each token among the whole vocabulary."""

import json
import random

import numpy as np
import pytest
from text_reference import expected_texts

import icm_fast
from fake_servers import hashed, of_model, serve
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.scoring.factory import make_scorer, make_text_scorer
from icm_fast.scoring.models import open_model, reads_texts
from icm_fast.scoring.servers.address import Reach
from icm_fast.scoring.servers.lazy import LazyServer
from icm_fast.scoring.servers.sglang import SGLangTexts
from icm_fast.scoring.servers.transport import UnusableError
from icm_fast.scoring.servers.vllm import VLLMTexts
from tiny_models import (
    MULTI,
    SINGLE,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
)

READING = ("vllm", "sglang")
QUICK = Reach(requests=4, timeout=60.0, patience=60.0)


def opened(address, tokenizer, reach=QUICK):
    return LazyServer(address, tokenizer=tokenizer, reach=reach)


@pytest.mark.parametrize("dialect", READING)
@pytest.mark.parametrize("labels", [SINGLE, MULTI])
def test_texts_are_those_of_the_weights(dialect, labels, tiny, tokenizer):
    dataset = reviews(labels, n=6)
    with serve(dialect, of_model(tiny.model), max_context=2048) as (address, state):
        model = opened(address, tokenizer)
        assert reads_texts(model)
        scorer = make_text_scorer(model.load(), dataset, SearchConfig())
        here = make_text_scorer(tiny, dataset, SearchConfig())
        for given in (np.full(len(dataset), -1, np.int32), mixed_labels(dataset)):
            state.prompts.clear()
            state.n_computed = 0
            found = scorer.score_texts(given)
            plan = scorer.plan(given)
            assert [leaf.scored for leaf in plan.leaves] == [
                leaf.scored for leaf in here.plan(given).leaves
            ]
            expected = expected_texts(tiny.model, dataset, plan)
            assert np.abs(found.scores - expected).max() <= 1e-4
            assert found.scores.dtype == np.float32
            assert np.ptp(expected, axis=1).max() > 0.01, "all labels are alike"
            assert found.n_tokens == scorer.predict_text_tokens(given)
            whole = sum(len(plan.ids_before(leaf)) + len(leaf.scored) for leaf in plan.leaves)
            if dialect == "vllm":  # it computes whole prompts
                assert found.n_tokens == whole
            else:  # all but one known sentence at the end
                assert state.n_computed <= 1.15 * found.n_tokens + 60
                assert found.n_tokens < whole


@pytest.mark.parametrize("dialect", ["llama.cpp", "openai"])
def test_other_servers_are_not_asked(dialect, tokenizer):
    with serve(dialect, hashed()) as (address, _):
        model = opened(address, tokenizer)
        assert not reads_texts(model)
        with pytest.raises(TypeError, match="cannot be asked for texts"):
            make_text_scorer(model.load(), reviews(), SearchConfig())


@pytest.mark.parametrize("dialect", READING)
@pytest.mark.parametrize(
    "fault",
    [
        *("429", "500", "reset", "truncated", "empty", "other prompt"),
        *("wrong ids", "missing ids", "nan", "positive"),
    ],
)
def test_a_spoiled_answer_is_asked_again(dialect, fault, tokenizer):
    dataset = reviews(n=4)
    given = np.full(len(dataset), -1, np.int32)
    with serve(dialect, hashed()) as (address, state):
        served = opened(address, tokenizer).load()
        scorer = make_text_scorer(served, dataset, SearchConfig())
        right = scorer.score_texts(given).scores
        begun = state.n_requests
        state.fault = lambda number: fault if number in (begun + 1, begun + 4) else ""
        assert np.array_equal(scorer.score_texts(given).scores, right)
        assert state.n_requests > begun + 2 * len(dataset)


@pytest.mark.parametrize("dialect", READING)
def test_an_answer_that_stays_spoiled_is_no_score(dialect, tokenizer):
    with serve(dialect, hashed()) as (address, state):
        reach = Reach(requests=2, timeout=5.0, patience=20.0)
        served = opened(address, tokenizer, reach).load()
        scorer = make_text_scorer(served, reviews(n=4), SearchConfig())
        state.fault = lambda number: "wrong ids"
        with pytest.raises(InputError, match="cannot be used"):
            scorer.score_texts(np.full(4, -1, np.int32))


def test_another_model_in_between_is_found(tokenizer):
    dataset = reviews(n=4)
    with serve("vllm", hashed()) as (address, state):
        served = opened(address, tokenizer).load()
        scorer = make_text_scorer(served, dataset, SearchConfig())
        state.logprobs = hashed(seed=1)
        with pytest.raises(InputError, match="another model answers"):
            scorer.score_texts(np.full(4, -1, np.int32))


def test_contexts_fit_the_server(tokenizer):
    dataset = reviews()
    given = mixed_labels(dataset, unlabelled=())
    with serve("vllm", hashed(), max_context=2048) as (address, state):
        served = opened(address, tokenizer).load()
        long = make_text_scorer(served, dataset, SearchConfig()).plan(given)
        limit = long.longest_context
        config = SearchConfig(context_limit=limit)  # one short for a token of the answer's own text
        scorer = make_text_scorer(served, dataset, config)
        state.prompts.clear()
        scorer.score_texts(given)
        assert scorer.plan(given).longest_context < limit
        assert max(map(len, state.prompts)) <= limit
        with pytest.raises(InputError, match="channel=False"):
            make_text_scorer(served, dataset, SearchConfig(context_limit=8)).plan(given)


@pytest.mark.parametrize("dialect", READING)
def test_a_search_asks_both_ways(dialect, tiny, tokenizer, tmp_path):
    """Its labels are those of the same scores brought by the caller."""

    class Here:
        fingerprint = "here"

        def score(self, labels, queries=None):
            return make_scorer(tiny, dataset, SearchConfig()).score(labels, queries)

        def score_texts(self, labels):
            plan = make_text_scorer(tiny, dataset, SearchConfig()).plan(labels)
            found = expected_texts(tiny.model, dataset, plan)
            return icm_fast.scoring.protocol.Scored(found, 0)

    dataset = reviews(n=8)
    output = tmp_path / "run"
    with serve(dialect, of_model(tiny.model), max_context=2048) as (address, state):
        config = SearchConfig(tokenizer=tokenizer)
        there = icm_fast.search(dataset, model=address, config=config, output_dir=output)
        n_requests = state.n_requests
    assert json.loads((output / "summary.json").read_text())["channel"] is True
    here = icm_fast.search(dataset, model="tiny", scorer=Here())
    assert there.labels.tolist() == here.labels.tolist()
    assert there.confidence == pytest.approx(here.confidence, abs=1e-3)
    assert n_requests > 0
    again = icm_fast.search(dataset, model=address, config=config, output_dir=output)
    assert again.labels.tolist() == there.labels.tolist(), "the server is away"


def test_a_search_without_the_channel_asks_for_no_texts(tiny, tokenizer):
    with serve("vllm", of_model(tiny.model), max_context=2048) as (address, _):
        config = SearchConfig(tokenizer=tokenizer, channel=False)
        model = open_model(address, config)
        asked = []
        model.load().client.ask_texts = asked.append
        icm_fast.search(reviews(n=6), model=model, config=config)
        assert not asked


IDS, START = (1, 7042, 450, 9), 2
RECORDED = {
    # vLLM 0.32.0, CPU build.
    "vllm": (
        VLLMTexts(),
        '{"choices": [{"index": 0, "text": " a", "logprobs": null, "prompt_logprobs": [null, '
        '{"7042": {"logprob": -4.5, "rank": 9, "decoded_token": " Paris"}}, {"450": {"logprob": '
        '-0.25, "rank": 1, "decoded_token": " L"}}, {"9": {"logprob": -2.5, "rank": 3, '
        '"decoded_token": "x"}}]}], "usage": {"prompt_tokens": 4, "total_tokens": 5}}',
    ),
    # The form of its source: lists of (log-probability, id, text), the first one without any.
    "sglang": (
        SGLangTexts(),
        '{"text": " a", "meta_info": {"prompt_tokens": 4, "cached_tokens": 1, '
        '"input_token_logprobs": [[null, 7042, null], [-0.25, 450, null], [-2.5, 9, null]]}}',
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_the_documented_form_is_read(name):
    dialect, text = RECORDED[name]
    answer = dialect.read(json.loads(text), IDS, START)
    assert answer.logprobs == (-0.25, -2.5)
    assert answer.n_prompt == 4


@pytest.mark.parametrize("name", RECORDED)
def test_another_form_is_refused_or_gives_log_probabilities(name):
    from test_dialect_answers import changed

    dialect, text = RECORDED[name]
    draw, refused = random.Random(name), 0
    for _ in range(3000):
        try:
            answer = dialect.read(changed(json.loads(text), draw), IDS, START)
        except UnusableError:
            refused += 1
        else:
            assert len(answer.logprobs) == 2
            assert all(-1e30 <= value <= 0 for value in answer.logprobs)
    assert refused > 500


def test_other_tokens_are_refused():
    for dialect, text in RECORDED.values():
        for ids in ((1, 7042, 451, 9), (1, 7042, 450, 9, 9)):
            with pytest.raises(UnusableError):
                dialect.read(json.loads(text), ids, START)
