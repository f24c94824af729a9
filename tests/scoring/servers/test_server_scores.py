"""Scores from servers of every dialect equal those of the naive scorer on the same orders."""

from dataclasses import replace

import numpy as np
import pytest

import icm_fast
from fake_servers import DIALECTS, hashed, of_model, serve
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.scoring.factory import make_scorer
from icm_fast.scoring.servers.address import Reach
from icm_fast.scoring.servers.client import Ask
from icm_fast.scoring.servers.lazy import LazyServer
from tiny_models import (
    MULTI,
    PREFIX,
    SINGLE,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
)

LABELS = {"single": SINGLE, "multi": MULTI, "prefix": PREFIX}
QUICK = Reach(requests=4, timeout=60.0, patience=60.0)


def opened(address, tokenizer, reach=QUICK, **options):
    return LazyServer(address, tokenizer=tokenizer, reach=reach, **options)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("kind", "normalize"), [("single", "labels"), ("multi", "labels"), ("prefix", "vocabulary")]
)
def test_every_dialect_scores_like_naive(dialect, kind, normalize, tiny, tokenizer):
    dataset = reviews(LABELS[kind], n=6)
    labels = mixed_labels(dataset)
    config = SearchConfig(normalize=normalize)
    naive = make_scorer(tiny, dataset, replace(config, scorer="naive")).score(labels)
    tree = make_scorer(tiny, dataset, config)
    # A generic server returns the most likely tokens only; here that is all of them.
    options = {"top": 420} if dialect == "openai" else {}
    with serve(dialect, of_model(tiny.model), max_context=2048, **options) as (address, state):
        served = opened(address, tokenizer).load()
        if dialect == "openai":
            served.client.dialect.first_width = 420
        scorer = make_scorer(served, dataset, config)
        before = state.n_computed
        scored = scorer.score(labels)
        assert served.computation == dialect
        assert np.abs(scored.scores - naive.scores).max() <= 1e-4
        assert scored.scores.dtype == np.float32
        plan = scorer.plan(labels)
        assert [list(c) for c in plan.contexts] == [list(c) for c in tree.plan(labels).contexts]
        assert scored.n_tokens == scorer.predict_tokens(labels) == plan.n_tokens
        # One probe of some twenty tokens comes at the end; a last token is computed again.
        assert state.n_computed - before <= plan.n_tokens + 60


def test_prefixes_are_computed_once_with_many_requests_in_flight(tokenizer):
    dataset = reviews(SINGLE)
    labels = mixed_labels(dataset, unlabelled=())
    with serve("vllm", hashed(), fault=lambda _: "") as (address, state):
        served = opened(address, tokenizer, Reach(requests=8, timeout=60, patience=60)).load()
        scorer = make_scorer(served, dataset, SearchConfig())
        state.prompts.clear()
        state.n_computed = state.most_running = 0
        plan = scorer.plan(labels)
        scorer.score(labels)
        assert state.n_computed <= 1.15 * plan.n_tokens
        assert len(state.prompts) == len(dataset) + 1
        natural = sum(len(plan.prompt_ids(i)) for i in range(len(dataset)))
        assert plan.n_tokens < 0.7 * natural


def test_rows_and_early_stop(tokenizer):
    dataset = reviews(MULTI)
    labels = mixed_labels(dataset)
    rows = np.arange(len(dataset)) % 3 == 0
    with serve("sglang", hashed()) as (address, _):
        served = opened(address, tokenizer, Reach(requests=1, timeout=60, patience=60)).load()
        scorer = make_scorer(served, dataset, SearchConfig())
        whole = scorer.score(labels).scores
        some = scorer.score_rows(labels, rows).scores
        assert np.array_equal(some[rows], whole[rows])
        assert np.isnan(some[~rows]).all()
        seen = []

        def enough(scores):
            seen.append(int(np.isfinite(scores).all(axis=1).sum()))
            return True

        first = np.arange(len(dataset), dtype=float)[::-1]
        part = scorer.score_rows(labels, np.ones(8, np.bool_), enough=enough, priority=first)
        assert seen
        assert 0 < seen[0] < len(dataset)
        done = np.isfinite(part.scores).all(axis=1)
        assert np.array_equal(part.scores[done], whole[done])


def test_contexts_of_a_bounded_number_of_demonstrations(tiny, tokenizer):
    dataset = reviews(SINGLE)
    labels = mixed_labels(dataset, unlabelled=())
    config = SearchConfig(context_demonstrations=3)
    here = make_scorer(tiny, dataset, config).score(labels).scores
    with serve("llama.cpp", of_model(tiny.model)) as (address, _):
        there = make_scorer(opened(address, tokenizer).load(), dataset, config).score(labels)
    assert np.abs(here - there.scores).max() <= 1e-4


def test_functions_take_an_address(tiny, tokenizer):
    dataset = reviews(SINGLE, n=6)
    labels = mixed_labels(dataset)
    config = SearchConfig(tokenizer=tokenizer, seed=3)
    with serve("vllm", of_model(tiny.model)) as (address, _):
        there = icm_fast.leave_one_out(dataset, labels, model=address, config=config)
        plan = icm_fast.plan_leave_one_out(dataset, labels, model=address, config=config)
    here = icm_fast.leave_one_out(dataset, labels, model=tiny, seed=3)
    assert np.abs(here - there).max() <= 1e-4
    assert plan.n_tokens > 0


def test_labels_beyond_the_most_likely_tokens(tokenizer):
    dataset = reviews(SINGLE)
    labels = mixed_labels(dataset)
    with serve("openai", hashed()) as (address, _):
        served = opened(address, tokenizer).load()
        with pytest.raises(InputError, match=r"label ' (positive|negative)' .*20 most likely"):
            make_scorer(served, dataset, SearchConfig()).score(labels)
    with serve("openai", hashed(), top=5) as (address, _):
        assert opened(address, tokenizer).load().client.dialect.first_width == 5
    with serve("llama.cpp", hashed(spread=4.0)) as (address, _):
        served = opened(address, tokenizer).load()
        scores = make_scorer(served, dataset, SearchConfig()).score(labels).scores
        assert np.isfinite(scores).all()
        assert served.client.dialect.first_width > 64, "no request had to be widened"


def test_requests_become_wider_only_where_a_label_is_missing(tokenizer):
    truth = hashed()
    asks = []
    for k in range(20):
        best = np.argsort(-truth((5, k))).tolist()
        asks.append(Ask((5, k), (best[3], best[40])))
    with serve("llama.cpp", truth) as (address, _):
        client = opened(address, tokenizer).load().client
        client.ask(asks)
        assert client.dialect.first_width == 64
        client.ask([Ask((5, 0), (np.argsort(-truth((5, 0))).tolist()[100],))])
        assert client.dialect.first_width == 128


@pytest.mark.parametrize(
    ("settings", "name"), [({"int8": True}, "int8"), ({"context_order": "append"}, "append")]
)
def test_settings_of_local_models_are_refused(settings, name, tokenizer):
    with (
        serve("vllm", hashed()) as (address, _),
        pytest.raises(InputError, match=f"{name}.* for models in this process"),
    ):
        make_scorer(opened(address, tokenizer).load(), reviews(), SearchConfig(**settings))


def test_contexts_that_are_too_long_for_the_server(tokenizer):
    with serve("vllm", hashed(), max_context=60) as (address, _):
        served = opened(address, tokenizer).load()
        with pytest.raises(InputError, match="the limit is 59; the largest n that fits"):
            make_scorer(served, reviews(), SearchConfig())


def test_another_tokenizer_is_refused(tokenizer, tmp_path):
    from tiny_models import metaspace_tokenizer

    metaspace_tokenizer().save_pretrained(tmp_path)
    for dialect in DIALECTS:
        with (
            serve(dialect, hashed()) as (address, _),
            pytest.raises(InputError, match=r"is not that of the server: .* here and .* there"),
        ):
            opened(address, str(tmp_path)).load()


def test_the_tokenizer_has_to_be_known(tokenizer):
    with (
        serve("vllm", hashed(), models=("/models/secret",)) as (address, _),
        pytest.raises(InputError, match="name it with --tokenizer"),
    ):
        LazyServer(address, reach=QUICK).load()
    with serve("vllm", hashed(), models=(tokenizer,)) as (address, _):
        assert LazyServer(address, reach=QUICK).load().client.facts.source == tokenizer


def test_one_of_several_models_is_named(tokenizer):
    with serve("vllm", hashed(), models=("a", "b")) as (address, _):
        with pytest.raises(InputError, match=r"has 2 models \('a', 'b'\); name one: .*#MODEL"):
            opened(address, tokenizer).load()
        served = opened(f"{address}/v1#b", tokenizer).load()
        assert served.client.facts.model == "b"


def test_settings_of_servers_are_refused_for_local_models():
    for settings in ({"server": "vllm"}, {"tokenizer": "gpt2"}):
        with pytest.raises(InputError, match="is for models on a server"):
            icm_fast.search(reviews(), model="smollm2", config=SearchConfig(**settings))


def test_settings_of_servers_are_recorded_only_where_used():
    assert not {"server", "tokenizer"} & set(SearchConfig().to_dict())
    assert SearchConfig(tokenizer="a/b").to_dict()["tokenizer"] == "a/b"
