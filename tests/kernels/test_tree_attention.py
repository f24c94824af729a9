"""Every version of tree attention against plain dense attention over whole contexts."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_fast.kernels.tree_attention import AttentionWork, SegmentWork, naive, sdpa

VERSIONS = {"naive": naive.tree_attention, "sdpa": sdpa.tree_attention}
HEADS, KV_HEADS, DIM, VALUE_DIM = 4, 2, 8, 6


@dataclass
class Case:
    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    work: AttentionWork

    def run(self, version, **options):
        options.setdefault("scaling", DIM**-0.5)
        return VERSIONS[version](self.query, self.keys, self.values, self.work, **options)


def make_case(segments, seed=0, dtype=torch.float32):
    """A pool for ``segments`` = [(ancestor lengths, own length)]; what no segment owns is NaN."""
    generator = torch.Generator().manual_seed(seed)
    works, row, slot = [], 0, 0
    for ancestors, length in segments:
        ranges = []
        for ancestor in ancestors:
            slot += 1  # a hole
            ranges.append((slot, slot + ancestor))
            slot += ancestor
        slot += 2
        # The pool does not keep a context's ranges in order.
        ranges = ranges[1::2] + ranges[::2]
        works.append(SegmentWork(row, row + length, tuple(ranges), slot, sum(ancestors)))
        row, slot = row + length, slot + length
    pool = slot + 3
    used = torch.zeros(pool, dtype=torch.bool)
    for work in works:
        for begin, end in (*work.ranges, (work.own, work.own + work.end - work.begin)):
            used[begin:end] = True
    tensors = [
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in ((HEADS, row, DIM), (KV_HEADS, pool, DIM), (KV_HEADS, pool, VALUE_DIM))
    ]
    for poisoned in tensors[1:]:
        poisoned[:, ~used] = math.nan
    return Case(*tensors, AttentionWork(tuple(works), row))


def dense(case, scaling=DIM**-0.5, sliding_window=None, softcap=None, sinks=None):
    """One query at a time over the keys that it sees, in float64."""
    out = torch.empty(HEADS, case.work.n_tokens, VALUE_DIM, dtype=torch.float64)
    for segment in case.work.segments:
        slots = [s for begin, end in segment.ranges for s in range(begin, end)]
        for k, row in enumerate(range(segment.begin, segment.end)):
            seen = [*slots, *range(segment.own, segment.own + k + 1)]
            seen = seen[-sliding_window:] if sliding_window else seen
            for head in range(HEADS):
                kv = head * KV_HEADS // HEADS
                scores = case.keys[kv, seen].double() @ case.query[head, row].double() * scaling
                if softcap:
                    scores = softcap * torch.tanh(scores / softcap)
                weights = scores.exp()
                total = weights.sum() + (sinks[head].double().exp() if sinks is not None else 0)
                out[head, row] = weights @ case.values[kv, seen].double() / total
    return out


ROOT = ((), 7)
ONE_TOKEN = ((5, 3), 1)
DEEP = ((3, 1, 4, 1, 5, 9, 2, 6, 1, 1, 2), 5)
SHAPES = {
    "root": [ROOT],
    "single first token": [((), 1)],
    "one token": [ONE_TOKEN],
    "deep": [DEEP],
    "odd batch": [((13,), 11), ONE_TOKEN, ROOT, DEEP, ((1,), 1), ((1, 17), 3)],
}
OPTIONS = {
    "plain": {},
    "scaled": {"scaling": 0.7},
    "window 1": {"sliding_window": 1},
    "window 2": {"sliding_window": 2},
    "window 5": {"sliding_window": 5},
    "window beyond": {"sliding_window": 1000},
    "softcap": {"softcap": 1.5},
    "softcap and window": {"softcap": 1.5, "sliding_window": 4},
    "sinks": {"sinks": torch.tensor([0.3, -1.0, 2.0, 0.0])},
    "sinks and window": {"sinks": torch.tensor([0.3, -1.0, 2.0, 0.0]), "sliding_window": 3},
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_dense_attention(version, options, shape):
    case = make_case(SHAPES[shape])
    out = case.run(version, **OPTIONS[options])
    assert out.shape == (HEADS, case.work.n_tokens, VALUE_DIM)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), dense(case, **OPTIONS[options]), atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    segments=st.lists(
        st.tuples(st.lists(st.integers(1, 9), max_size=6), st.integers(1, 9)),
        min_size=1,
        max_size=5,
    ),
    window=st.one_of(st.none(), st.integers(1, 40)),
    seed=st.integers(0, 1000),
)
def test_versions_agree_on_random_segments(segments, window, seed):
    case = make_case(segments, seed)
    fast = case.run("sdpa", sliding_window=window)
    torch.testing.assert_close(fast, case.run("naive", sliding_window=window), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_window_zero_length_pool_parts_do_not_matter(version):
    """Slots outside the window may be overwritten without any effect."""
    case = make_case([((6, 6), 3)])
    before = case.run(version, sliding_window=4)
    (first, _) = case.work.segments[0].ranges
    case.keys[:, first[0] : first[1]] = 50.0
    case.values[:, first[0] : first[1]] = 50.0
    assert torch.equal(case.run(version, sliding_window=4), before)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(version, dtype):
    case = make_case(SHAPES["odd batch"], dtype=dtype)
    out = case.run(version)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), dense(case), atol=3e-2, rtol=3e-2)


def test_poison_would_show():
    """The NaN in unused slots reaches the result as soon as one of them is read."""
    case = make_case([ONE_TOKEN])
    segment = case.work.segments[0]
    (a, b), rest = segment.ranges[0], segment.ranges[1:]
    wrong = SegmentWork(0, 1, ((a - 1, b), *rest), segment.own, segment.start + 1)
    case.work = AttentionWork((wrong,), 1)
    assert case.run("naive").isnan().any()
    assert case.run("sdpa").isnan().any()
