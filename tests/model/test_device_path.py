"""A device's memory changes batches and the pool, but not the scores."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from forward_cases import check_too_little_memory
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.model import load_model
from icm_fast.model.forward.batch import PackedBatch, halves
from icm_fast.model.kv_size import fitting_kv_tokens, kv_numbers_per_token
from icm_fast.scoring import local as local_scorers
from icm_fast.scoring.factory import make_scorer
from tiny_models import (
    SINGLE,
    byte_tokenizer,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
    tiny_model,
)


class SmallDevice:
    """Runs out of memory on a forward pass of too many tokens."""

    def __init__(self, model, room):
        self.sizes, self._real, self._room = [], model.base_model.forward, room
        model.base_model.forward = self

    def __call__(self, *args, input_ids, **options):
        self.sizes.append(input_ids.shape[1])
        if input_ids.shape[1] > self._room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._real(*args, input_ids=input_ids, **options)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt_neox"])
def test_batches_that_do_not_fit_are_split_with_the_same_scores(family):
    dataset = reviews(SINGLE)
    labels = mixed_labels(dataset)
    expected = make_scorer(tiny_loaded(family, generic=True), dataset, SearchConfig()).score(labels)
    loaded = tiny_loaded(family, generic=True)
    scorer = make_scorer(loaded, dataset, SearchConfig())
    plan = scorer.plan(labels)
    room = int(plan.tree.n_tokens.max())
    device = SmallDevice(loaded.model, room)
    with pytest.warns(RuntimeWarning, match=r"no memory for a batch of \d+ tokens; continuing"):
        scored = scorer.score(labels)
    assert np.abs(scored.scores - expected.scores).max() < 1e-5
    assert scored.n_tokens == expected.n_tokens == plan.n_tokens
    assert max(device.sizes) > room
    device.sizes.clear()
    assert np.abs(scorer.score(labels).scores - expected.scores).max() < 1e-5
    assert max(device.sizes) <= room  # what failed once is not tried again


def test_a_segment_beyond_the_memory_is_one_clear_error():
    loaded = tiny_loaded("llama", generic=True)
    SmallDevice(loaded.model, 3)
    check_too_little_memory(loaded)


def batch(lengths):
    n = len(lengths)
    ends = np.cumsum(lengths)
    return PackedBatch(
        token_ids=np.arange(ends[-1]),
        n_tokens=np.array(lengths),
        start=np.arange(n) * 3,
        own=np.arange(n) * 100,
        ranges=tuple(((k, 4 * k),) for k in range(n)),
        wanted=np.arange(n) % 2 == 0,
    )


@pytest.mark.parametrize("lengths", [[3, 4], [9, 1], [1, 9], [1, 1, 1, 9], [5, 1, 1, 1, 1, 1]])
def test_halves_are_the_whole(lengths):
    whole = batch(lengths)
    parts = halves(whole)
    assert all(len(part.n_tokens) for part in parts)
    for name in ("token_ids", "n_tokens", "start", "own", "wanted"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(joined, getattr(whole, name)), name
    assert parts[0].ranges + parts[1].ranges == whole.ranges
    assert [len(part.token_ids) for part in parts] == [part.n_tokens.sum() for part in parts]
    largest = max(len(part.token_ids) for part in parts)
    assert largest < len(whole.token_ids)


def test_the_pool_takes_half_of_what_the_weights_leave():
    config = tiny_model("llama").config
    each = kv_numbers_per_token(config)
    assert each == 2 * 2 * 2 * 8
    assert fitting_kv_tokens(config, 2, 10_000, 1_000) == (9_000 - 1_000) // 2 // (2 * each)
    assert fitting_kv_tokens(config, 2, 1_000, 5_000) == 1


@pytest.fixture
def placed(monkeypatch):
    """Places a tiny model on two devices that have as much memory as its weights take, times."""

    def place(times=1):
        model = tiny_model("llama")
        parameters = [
            SimpleNamespace(device=torch.device("cuda", k % 2), nbytes=p.nbytes)
            for k, p in enumerate(model.parameters())
        ]
        room = times * sum(p.nbytes for p in parameters)
        asked = []

        def properties(device):
            asked.append(device.index)
            return SimpleNamespace(total_memory=room)

        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
        names = {"config": model.config, "dtype": torch.float32}
        loaded = SimpleNamespace(model=SimpleNamespace(parameters=lambda: parameters, **names))
        fitting = (2 * room * 9 // 10 - room // times) // 2
        return loaded, fitting // (kv_numbers_per_token(model.config) * 4), asked

    return place


def test_a_scorer_on_a_device_keeps_to_its_memory(placed):
    loaded, fitting, asked = placed()
    assert 7 < fitting < 65536
    config = local_scorers.within_device(SearchConfig(), loaded)
    assert config.kv_budget_tokens == fitting
    assert sorted(asked) == [0, 1]
    assert local_scorers.within_device(SearchConfig(), loaded, 2).kv_budget_tokens == fitting // 2
    small = local_scorers.within_device(SearchConfig(kv_budget_tokens=7), loaded)
    assert small.kv_budget_tokens == 7
    large = local_scorers.within_device(SearchConfig(kv_budget_tokens=10**9), loaded)
    assert large.kv_budget_tokens == fitting


def test_defaults_are_larger_on_a_device(placed):
    loaded, fitting, _ = placed(times=1000)
    config = local_scorers.within_device(SearchConfig(), loaded)
    assert (config.kv_budget_tokens, config.batch_tokens) == (fitting, 16384)
    assert fitting > 65536
    asked_for = SearchConfig(kv_budget_tokens=70_000, batch_tokens=4097)
    assert local_scorers.within_device(asked_for, loaded) == asked_for
    on_cpu = tiny_loaded("llama")
    assert local_scorers.within_device(SearchConfig(), on_cpu) == SearchConfig()


def test_layers_are_spread_by_transformers_where_that_is_asked_for(tmp_path, monkeypatch):
    import icm_fast.model.load as load

    tiny_model("llama").save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    real, maps = load.AutoModelForCausalLM.from_pretrained, []

    def from_pretrained(folder, *, device_map, **options):
        maps.append(device_map)
        return real(folder, **options)

    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(InputError, match="torch sees no GPU"):
        load_model(tmp_path, device="balanced")
    load_model(tmp_path, device="cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    load_model(tmp_path, device="balanced", dtype="float32")
    assert maps == [None, "balanced"]
    with pytest.raises(InputError, match="cuda:N or balanced"):
        load_model(tmp_path, device="balance")
