"""What a cache holds is what was written, and nothing that is read is ever overwritten."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_fast import _core

N = 8


def make_plan(cache, labels, appended, *, rows=None, lengths=None, batch_tokens=64):
    lengths = np.full(N, 5, np.int64) if lengths is None else lengths
    labelled = labels >= 0
    return _core.plan_tree(
        demonstration_tokens=lengths,
        first_extra=np.zeros(N, np.int64),
        query_tokens=lengths - 1,
        query_first_extra=np.zeros(N, np.int64),
        labelled=labelled,
        queried=np.ones(N, np.bool_),
        root_tokens=1,
        tail_parents=np.array([-1], np.int32),
        seed=3,
        kv_budget_tokens=10**6,
        batch_tokens=batch_tokens,
        rows=rows,
        appended=np.array(appended, np.int32),
        cache=cache,
        labels=labels.astype(np.int32),
    )


def path_of(plan, segment, labels):
    """What a segment and its ancestors hold, root first."""
    path = []
    while segment >= 0:
        demos = plan.demos[plan.demo_offsets[segment] : plan.demo_offsets[segment + 1]]
        own = tuple((int(d), int(labels[d])) for d in demos)
        path.insert(0, (own, int(plan.query[segment]), int(plan.tail[segment])))
        segment = int(plan.parent[segment])
    return tuple(path)


def run(pool, plan, labels, n_batches):
    """Run some batches over a pool of slots that remember what was written there."""
    forwarded = np.zeros(plan.n_segments, np.bool_)
    for batch in range(min(n_batches, plan.n_batches)):
        begin, end = plan.batch_offsets[batch], plan.batch_offsets[batch + 1]
        segments = [int(s) for s in plan.batch_segments[begin:end]]
        for s in segments:
            above = int(plan.parent[s])
            while above >= 0:
                first = int(plan.kv_offset[above])
                wanted = path_of(plan, above, labels)
                for k in range(int(plan.n_tokens[above])):
                    assert pool[first + k] == (wanted, k)
                above = int(plan.parent[above])
        for s in segments:
            first = int(plan.kv_offset[s])
            assert first % 2 == 0
            for k in range(int(plan.n_tokens[s])):
                pool[first + k] = (path_of(plan, s, labels), k)
            forwarded[s] = True
    return forwarded


@st.composite
def histories(draw):
    steps = []
    for _ in range(draw(st.integers(1, 8))):
        labels = np.array(draw(st.lists(st.integers(-1, 1), min_size=N, max_size=N)), np.int32)
        labelled = np.flatnonzero(labels >= 0).tolist()
        order = draw(st.permutations(labelled))
        appended = order[: draw(st.integers(0, len(order)))]
        steps.append((labels, appended, draw(st.sampled_from([1, 2, 3, 1000]))))
    return steps


@settings(deadline=None, max_examples=150)
@given(history=histories(), n_slots=st.sampled_from([60, 150, 400, 2000]), data=st.data())
def test_held_segments_are_what_was_written(history, n_slots, data):
    lengths = np.array(data.draw(st.lists(st.integers(2, 9), min_size=N, max_size=N)), np.int64)
    cache, pool = _core.PrefixCache(n_slots), {}
    for labels, appended, n_batches in history:
        plan = make_plan(cache, labels, appended, lengths=lengths)
        if not plan.is_kept:
            assert cache.n_held == cache.held_tokens == 0
            pool.clear()
            continue
        in_batches = sorted(plan.batch_segments.tolist())
        assert len(set(in_batches)) == len(in_batches)
        assert (plan.kv_offset + plan.n_tokens).max() <= n_slots == plan.pool_tokens
        assert plan.forwarded_tokens == plan.n_tokens[in_batches].sum()
        cache.finish(run(pool, plan, labels, n_batches))
        assert cache.held_tokens <= n_slots
        if n_batches == 1000:
            again = make_plan(cache, labels, appended, lengths=lengths)
            if not again.is_kept:
                # First fit may now put a query into a hole that another one needs.
                assert n_slots < 2000, "with room to spare what was forwarded is still there"
                pool.clear()
                continue
            # Only queries and their tails are forwarded a second time.
            assert (again.query[again.batch_segments] >= 0).all()
            cache.finish(np.zeros(again.n_segments, np.bool_))


def test_the_oldest_is_evicted_first():
    cache, pool = _core.PrefixCache(150), {}
    sets = [np.where(np.arange(N) < 3, label, -1).astype(np.int32) for label in (0, 1)]
    sets.append(np.where(np.arange(N) > 4, 0, -1).astype(np.int32))
    costs = []
    for labels in (sets[0], sets[1], sets[1], sets[2], sets[1], sets[0]):
        plan = make_plan(cache, labels, [])
        costs.append(plan.forwarded_tokens)
        cache.finish(run(pool, plan, labels, 1000))
    assert costs[2] < costs[1]
    assert costs[4] == costs[2], "the second labelling was used last but one"
    assert costs[5] > costs[4], "the first one had to go"


def test_misuse_is_refused():
    cache = _core.PrefixCache(400)
    labels = np.zeros(N, np.int32)
    with pytest.raises(ValueError, match="no plan"):
        cache.finish(np.zeros(1, np.bool_))
    plan = make_plan(cache, labels, [0])
    with pytest.raises(ValueError, match="not finished"):
        make_plan(cache, labels, [0])
    with pytest.raises(ValueError, match="one entry per segment"):
        cache.finish(np.zeros(plan.n_segments + 1, np.bool_))
    cache.finish(np.zeros(plan.n_segments, np.bool_))
    with pytest.raises(ValueError, match="n_slots"):
        _core.PrefixCache(0)
    for appended in ([0, 0], [9], [-1]):
        with pytest.raises(ValueError, match="appended names"):
            make_plan(cache, labels, appended)
    with pytest.raises(ValueError, match="appended names"):
        make_plan(cache, np.where(np.arange(N) == 2, -1, 0), [2])


def test_a_plan_that_is_refused_leaves_the_cache_usable():
    # Found by fuzzing: the cache waited for the end of a plan that nobody had got, and held
    # segments that nobody had forwarded.
    cache = _core.PrefixCache(400)
    labels = np.zeros(N, np.int32)
    with pytest.raises(ValueError, match="batch_tokens"):
        make_plan(cache, labels, [0], batch_tokens=0)
    assert (cache.n_held, cache.held_tokens) == (0, 0)
    plan = make_plan(cache, labels, [0])
    assert plan.forwarded_tokens == plan.total_tokens
    cache.finish(np.ones(plan.n_segments, np.bool_))
