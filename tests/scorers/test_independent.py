"""Demonstrations that do not see one another: one masked forward pass gives the same scores."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.scorers import independent, make_surrogate
from run_fakes import FakeScorer, toy_dataset
from tiny_models import (
    MULTI,
    PREFIX,
    SINGLE,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
)


def masked_logits(loaded, pieces, labels, example):
    """Next-token logits of a query that sees the demonstrations, which see only themselves."""
    root = list(pieces.root)
    demos = [
        root + list(pieces.demonstration(j, int(labels[j]), first=True))
        for j in range(len(labels))
        if labels[j] >= 0 and j != example
    ]
    query = list(pieces.prompt(example, first=False))
    ids = [token for part in (*demos, query) for token in part]
    longest = max(len(demo) for demo in demos)
    positions = [p for demo in demos for p in range(len(demo))]
    positions += range(longest, longest + len(query))
    allowed = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    start = 0
    for demo in demos:
        stop = start + len(demo)
        allowed[start:stop, start:stop] = torch.ones(len(demo), len(demo)).tril().bool()
        # The root is seen once.
        allowed[len(ids) - len(query) :, (start if start == 0 else start + len(root)) : stop] = True
        start = stop
    allowed[start:, start:] = torch.ones(len(query), len(query)).tril().bool()
    mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[None, None]
    output = loaded.model(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        attention_mask=mask,
        use_cache=False,
    )
    return output.logits[0, -1]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("generic", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_scores_are_those_of_a_masked_forward_pass(family, generic, bos):
    dataset = reviews(SINGLE)
    loaded = tiny_loaded(family, bos=bos, generic=generic)
    scorer = make_surrogate(loaded, dataset, SearchConfig())
    for unlabelled in ((2, 5), (), (0,)):
        labels = mixed_labels(dataset, unlabelled=unlabelled)
        scores = scorer.score(labels).scores
        for i in range(len(dataset)):
            with torch.inference_mode():
                logits = masked_logits(loaded, scorer._pieces, labels, i)
            own = logits[[ids[0] for ids in scorer._pieces.labels]]
            assert torch.allclose(own.log_softmax(-1), torch.tensor(scores[i]), atol=1e-4)


def test_a_demonstration_is_encoded_once():
    dataset = reviews(SINGLE)
    scorer = make_surrogate(tiny_loaded("llama"), dataset, SearchConfig(batch_tokens=40))
    labels = mixed_labels(dataset, unlabelled=())
    first, again = scorer.score(labels), scorer.score(labels)
    prompts, _ = scorer._pieces.query_lengths()
    assert again.n_tokens == prompts.sum() < first.n_tokens
    assert np.array_equal(first.scores, again.scores)
    labels[3] = 1 - labels[3]
    new = len(scorer._pieces.demonstration(3, int(labels[3]), first=True))
    assert scorer.score(labels).n_tokens == prompts.sum() + new


def test_a_pool_that_no_device_has_room_for_is_refused(monkeypatch):
    dataset, loaded = reviews(SINGLE), tiny_loaded("llama")
    needed = make_surrogate(loaded, dataset, SearchConfig())._pool_tokens
    for room, refused in ((2 * needed, False), (2 * needed - 1, True)):
        monkeypatch.setattr(independent, "device_tokens", lambda loaded, room=room: room)
        with pytest.raises(InputError, match=f"of {needed:,} tokens") if refused else nullcontext():
            make_surrogate(loaded, dataset, SearchConfig())


@pytest.mark.parametrize("kind", [MULTI, PREFIX])
@pytest.mark.parametrize("generic", [False, True])
def test_labels_of_several_tokens(kind, generic):
    dataset = reviews(kind)
    labels = mixed_labels(dataset)
    config = SearchConfig(normalize="vocabulary")
    scorer = make_surrogate(tiny_loaded("mistral", generic=generic), dataset, config)
    scores = scorer.score(labels).scores
    assert np.isfinite(scores).all()
    assert (scores < 0).all()
    # With one demonstration, no demonstration can fail to see another: the exact scores.
    one = np.full(len(dataset), -1, np.int32)
    nothing = scorer.score(one).scores
    exact = icm_fast.scorers.make_scorer(
        tiny_loaded("mistral", generic=generic), dataset, config
    ).score(one)
    assert np.abs(nothing - exact.scores).max() <= 1e-4


def test_a_search_screens_and_resumes(tmp_path):
    dataset, loaded = reviews(SINGLE), tiny_loaded("llama")
    n_screened = 0
    for seed in range(6):
        folder = tmp_path / str(seed)
        config = SearchConfig(
            preset="paper",
            delayed_acceptance=True,
            n_initial=3,
            initial_temperature=0.01,
            max_iterations=60,
            seed=seed,
        )
        result = icm_fast.search(dataset, model=loaded, config=config, output_dir=folder)
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        screened = [event for event in events if event.get("screened")]
        assert not any(event["accepted"] for event in screened)
        n_screened += len(screened)
        again = icm_fast.search(dataset, model=loaded, config=config, output_dir=folder)
        assert again.n_tokens_forwarded == result.n_tokens_forwarded
        assert np.array_equal(again.scores, result.scores)
    assert n_screened > 0


def test_a_scorer_of_the_callers_needs_a_surrogate_too():
    config = SearchConfig(preset="paper", delayed_acceptance=True, max_iterations=40)
    with pytest.raises(InputError, match="surrogate"):
        icm_fast.search(toy_dataset(10), model="x", config=config, scorer=FakeScorer(10))
