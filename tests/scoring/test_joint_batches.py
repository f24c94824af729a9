"""Several labellings in the same batches: the same scores, in fewer batches."""

import numpy as np
import pytest
import torch

from icm_fast.config import SearchConfig
from icm_fast.model.forward.device import DeviceForward
from icm_fast.plan.joint import groups_within, join_plans, pool_slots
from icm_fast.plan.pieces import tokenize_dataset
from icm_fast.plan.uniform import uniform_plan
from icm_fast.scoring.bounded import BoundedScorer
from icm_fast.scoring.factory import make_scorer
from icm_fast.scoring.local import TreeScorer
from tiny_models import (
    MULTI,
    SINGLE,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
)

CONFIG = SearchConfig(batch_tokens=120, kv_budget_tokens=1000)


def asked(dataset):
    """Labellings of different sizes, one with few queries and one without labels."""
    labels = mixed_labels(dataset, unlabelled=())
    some = np.arange(len(labels)) % 3 == 0
    none = np.full_like(labels, -1)
    return [
        (labels, None),
        (mixed_labels(dataset, unlabelled=(0, 1, 4)), None),
        (labels[::-1].copy(), some),
        (none, None),
    ]


class Counting:
    """A runner that notes the tokens of its batches."""

    def __init__(self, scorer):
        self.sizes = []
        runner = scorer.runner
        run = runner.forward.run

        def counted(batch):
            self.sizes.append(len(batch.token_ids))
            return run(batch)

        runner.forward.run = counted


class Wrapped:
    """A forward pass whose methods may be replaced."""

    def __init__(self, forward):
        self._forward = forward

    def __getattr__(self, name):
        return getattr(self._forward, name)


def scorer_of(loaded, dataset, config=CONFIG, *, joins, forward=None):
    pieces = tokenize_dataset(dataset, loaded.tokenizer)
    scorer = TreeScorer(loaded, pieces, config, joins=joins)
    scorer.runner._forward = Wrapped(forward or scorer.runner.forward)
    return scorer, Counting(scorer)


@pytest.mark.parametrize("labels", [SINGLE, MULTI])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_joint_scores_are_the_same_bits(family, labels):
    """By the native decoder; gemma2 has sliding windows and caps, MULTI a tree of label tokens."""
    loaded, dataset = tiny_loaded(family, bos=True), reviews(labels)
    alone, alone_count = scorer_of(loaded, dataset, joins=False)
    joint, joint_count = scorer_of(loaded, dataset, joins=True)
    wanted, found = alone.score_many(asked(dataset)), joint.score_many(asked(dataset))
    for one, other in zip(wanted, found, strict=True):
        assert np.array_equal(one.scores, other.scores, equal_nan=True)
        assert one.n_tokens == other.n_tokens
    assert sum(alone_count.sizes) == sum(joint_count.sizes)
    assert len(joint_count.sizes) < len(alone_count.sizes)
    assert joint.runner.n_tokens_forwarded == alone.runner.n_tokens_forwarded


@pytest.mark.parametrize("way", ["our kernels", "transformers"])
def test_joint_scores_of_other_forward_passes(way):
    """torch's products may round a row by how many others there are, and by no more."""
    loaded, dataset = tiny_loaded("llama", generic=True), reviews(SINGLE)
    found = []
    for joins in (False, True):
        forward = DeviceForward(loaded) if way == "our kernels" else None
        scorer, _ = scorer_of(loaded, dataset, joins=joins, forward=forward)
        found.append(scorer.score_many(asked(dataset)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        assert one.n_tokens == other.n_tokens


@pytest.mark.parametrize("budget", [1, 300, 100_000])
def test_pools_keep_to_the_budget(budget):
    """Labellings take turns where their pools do not fit together; scores stay the same."""
    loaded, dataset = tiny_loaded("llama"), reviews(SINGLE)
    config = SearchConfig(batch_tokens=120, kv_budget_tokens=budget)
    scorer, _ = scorer_of(loaded, dataset, config, joins=True)
    alone, _ = scorer_of(loaded, dataset, config, joins=False)
    wanted, found = (one.score_many(asked(dataset)) for one in (alone, scorer))
    for one, other in zip(wanted, found, strict=True):
        assert np.array_equal(one.scores, other.scores, equal_nan=True)
    largest = max(scorer.pool_bytes(*one) for one in asked(dataset))
    held = scorer.pool_bytes_of_many(asked(dataset))
    assert held <= max(largest, budget * scorer._bytes_per_token())
    assert (held == largest) == (budget == 1)
    assert scorer.runner.peak_kv_bytes <= held + 2 * len(asked(dataset)) * scorer._bytes_per_token()
    assert alone.pool_bytes_of_many(asked(dataset)) == largest


def test_blocks_of_examples_share_batches():
    loaded, dataset = tiny_loaded("llama"), reviews(SINGLE)
    config = SearchConfig(context_demonstrations=4, batch_tokens=400, kv_budget_tokens=4000)
    pieces = tokenize_dataset(dataset, loaded.tokenizer)
    labels = mixed_labels(dataset, unlabelled=(2,))
    rows = np.arange(len(labels)) % 2 == 0
    found, sizes = [], []
    for joins in (False, True):
        tree, counting = scorer_of(loaded, dataset, config, joins=joins)
        scorer = BoundedScorer(tree, pieces, config)
        found.append((scorer.score(labels), scorer.score_rows(labels, rows)))
        sizes.append(len(counting.sizes))
        assert found[-1][0].n_tokens == scorer.predict_tokens(labels)
    assert len(scorer.blocks) > 2
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one.scores, other.scores, equal_nan=True)
        assert one.n_tokens == other.n_tokens
    assert sizes[1] * 2 <= sizes[0]


def test_blocks_take_turns_where_a_search_may_stop():
    """Otherwise a joint batch would have forwarded what nobody needs any more."""
    loaded, dataset = tiny_loaded("llama"), reviews(SINGLE)
    config = SearchConfig(context_demonstrations=4)
    labels, tokens = mixed_labels(dataset), []
    for joins in (False, True):
        tree, _ = scorer_of(loaded, dataset, config, joins=joins)
        scorer = BoundedScorer(tree, tokenize_dataset(dataset, loaded.tokenizer), config)
        every = np.ones(len(labels), np.bool_)
        tokens.append(scorer.score_rows(labels, every, enough=lambda scores: True).n_tokens)
    assert tokens[0] == tokens[1]


def test_a_device_joins_and_a_processor_does_not(monkeypatch):
    loaded, dataset = tiny_loaded("llama"), reviews(SINGLE)
    assert not make_scorer(loaded, dataset, SearchConfig()).joins
    monkeypatch.setattr(type(loaded), "device", property(lambda self: torch.device("cuda", 0)))
    monkeypatch.setattr("icm_fast.scoring.local.ModelRunner", lambda *a, **k: None)
    assert TreeScorer(loaded, tokenize_dataset(dataset, loaded.tokenizer), SearchConfig()).joins


# --- The joint plan ------------------------------------------------------------------------------


def plans(*sizes, **options):
    options = {"batch_tokens": 100, "kv_budget_tokens": 500} | options
    return [uniform_plan(n, demonstration=7, query=5, root=1, **options) for n in sizes]


@pytest.mark.parametrize("batch_tokens", [1, 100, 250, 10_000])
def test_a_joint_plan_keeps_every_plan_as_it_is(batch_tokens):
    parts = plans(5, 12, 1, 30)
    joint = join_plans(parts, batch_tokens)
    assert sorted(joint.batch_segments.tolist()) == list(range(sum(p.n_segments for p in parts)))
    ran = np.zeros(len(joint.parent), np.int64)
    live = np.full(joint.pool_tokens, -1)
    for batch, (a, b) in enumerate(zip(joint.batch_offsets, joint.batch_offsets[1:], strict=False)):
        segments = joint.batch_segments[a:b]
        ran[segments] = batch
        owners = np.searchsorted(joint.first, segments, side="right") - 1
        assert (np.diff(owners) >= 0).all()
        alone = len(set(owners.tolist())) == 1
        assert alone or joint.n_tokens[segments].sum() <= batch_tokens
        for s in segments:
            if joint.parent[s] >= 0:  # its keys are still there
                at = joint.kv_offset[joint.parent[s]]
                assert (live[at : at + joint.n_tokens[joint.parent[s]]] == joint.parent[s]).all()
        for s in segments:
            live[joint.kv_offset[s] : joint.kv_offset[s] + joint.n_tokens[s]] = s
    for k, part in enumerate(parts):
        mine = slice(*joint.first[k : k + 2])
        for name in ("n_tokens", "start"):
            assert np.array_equal(getattr(joint, name)[mine], getattr(part, name))
        order = [s - joint.first[k] for s in joint.batch_segments if mine.start <= s < mine.stop]
        assert order == part.batch_segments.tolist()
        shift = joint.kv_offset[mine] - part.kv_offset
        assert len(set(shift.tolist())) == 1
        assert shift[0] % 2 == 0
    children = joint.parent >= 0
    assert (ran[joint.parent[children]] < ran[children]).all()


def test_groups_are_consecutive_and_fit():
    parts = plans(5, 12, 30, 1, 1)
    slots = [pool_slots(part) for part in parts]
    assert groups_within(parts, sum(slots)) == [[0, 1, 2, 3, 4]]
    assert groups_within(parts, 1) == [[0], [1], [2], [3], [4]]
    assert groups_within(parts, slots[0] + slots[1]) == [[0, 1], [2], [3, 4]]
    assert groups_within([], 10) == []
    assert all(size % 2 == 0 for size in slots)


def test_a_plan_that_reads_earlier_ones_is_refused():
    class Kept:
        is_kept = True

    with pytest.raises(ValueError, match="reads what earlier ones wrote"):
        join_plans([Kept()], 100)
