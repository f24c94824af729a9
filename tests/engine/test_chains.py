"""Searches side by side: one store, one scorer, the best result."""

import json

import numpy as np
import pytest

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.engine.chains import chain_config
from run_fakes import FakeScorer, toy_dataset

N = 12


def run(folder=None, scorer=None, **settings):
    config = SearchConfig(**settings)
    return icm_fast.search(
        toy_dataset(N), model="x", config=config, scorer=scorer or FakeScorer(N), output_dir=folder
    )


def events_of(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_best_chain_counts(preset, tmp_path):
    settings = {"preset": preset, "chains": 4, "max_iterations": 60, "seed": 7}
    together = run(tmp_path / "together", **settings)
    alone = []
    for chain in range(4):
        config = chain_config(SearchConfig(**settings), chain)
        # The contexts follow the seed of the whole search; a fake scorer has none.
        one = {name: getattr(config, name) for name in ("seed", "start")}
        alone.append(run(tmp_path / str(chain), **{**settings, "chains": 1, **one}))
    best = max(alone, key=lambda r: ((r.labels >= 0).sum(), r.utility))
    assert together.utility == best.utility
    assert np.array_equal(together.labels, best.labels)
    assert together.n_evaluations <= sum(r.n_evaluations for r in alone)
    for chain in range(4):
        mine = [e for e in events_of(tmp_path / "together") if e.pop("chain") == chain]
        assert mine == events_of(tmp_path / str(chain))


def test_one_chain_is_the_plain_search(tmp_path):
    run(tmp_path / "one", chains=1, seed=3)
    run(tmp_path / "plain", seed=3)
    names = ("events.jsonl", "labels.jsonl", "evaluations.bin")
    first, second = (
        [(tmp_path / run_name / name).read_bytes() for name in names]
        for run_name in ("one", "plain")
    )
    assert first[:2] == second[:2]
    assert "chain" not in events_of(tmp_path / "one")[0]


def test_chains_score_what_they_share_once():
    # All four start from the same zero-shot pass, and from the fourth on nothing is new to it.
    scorer = FakeScorer(N)
    result = run(scorer=scorer, chains=4, seed=1)
    assert scorer.calls == result.n_evaluations


def test_chains_resume_bit_for_bit(tmp_path):
    class Stopping(FakeScorer):
        def score(self, labels, queries=None):
            if self.calls == 9:
                raise KeyboardInterrupt
            return super().score(labels, queries)

    settings = {"chains": 3, "seed": 5, "preset": "paper", "max_iterations": 40}
    run(tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", Stopping(N), **settings)
    run(tmp_path / "stopped", **settings)
    for name in ("events.jsonl", "labels.jsonl", "evaluations.bin"):
        first, second = (
            (tmp_path / run_name / name).read_bytes() for run_name in ("whole", "stopped")
        )
        assert first == second


@pytest.mark.parametrize("chains", [1, 3])
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_tokens_bound_a_search(chains, preset, tmp_path):
    settings = {"preset": preset, "chains": chains, "seed": 2, "max_iterations": 200}
    free = run(**settings)
    limit = free.n_tokens_forwarded // 2
    bounded = run(tmp_path, max_tokens=limit, **settings)
    # The best of several chains may have come to its end before, and a search whose bootstrap took
    # the tokens may end with the labels that it starts from.
    assert bounded.reason == "max_tokens" or chains > 1 or preset == "default"
    # One labelling may begin below the limit; the scores that a result lacks come on top.
    most = FakeScorer(N).predict_tokens(np.zeros(N, np.int32))
    assert limit <= bounded.n_tokens_forwarded < limit + 2 * most * chains
    assert np.isfinite(bounded.scores).all()
    again = run(tmp_path, max_tokens=limit, **settings)
    assert again.n_tokens_forwarded == bounded.n_tokens_forwarded
    assert np.array_equal(again.labels, bounded.labels)


def test_restarts_never_lose_the_best():
    for seed in range(5):
        once = run(seed=seed)
        often = run(seed=seed, restarts=4)
        assert often.utility >= once.utility
        assert often.n_iterations > once.n_iterations
