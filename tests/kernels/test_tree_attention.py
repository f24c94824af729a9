"""Every implementation of tree attention against plain dense attention over whole contexts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.bias import CausalBias

from attention_cases import DEEP, ONE_TOKEN, OPTIONS, SHAPES, Sizes, make_case
from icm_fast.kernels.tree_attention import AttentionWork, SegmentWork, naive, sdpa

IMPLEMENTATIONS = {"naive": naive.tree_attention, "sdpa": sdpa.tree_attention}
HEADS, KV_HEADS, DIM, VALUE_DIM = 4, 2, 8, 6
assert Sizes(HEADS, KV_HEADS, DIM, VALUE_DIM) == Sizes()


def run(case, implementation, **options):
    options.setdefault("scaling", DIM**-0.5)
    return IMPLEMENTATIONS[implementation](case.query, case.keys, case.values, case.work, **options)


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


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_dense_attention(implementation, options, shape):
    case = make_case(SHAPES[shape])
    out = run(case, implementation, **OPTIONS[options])
    assert out.shape == (HEADS, case.work.n_tokens, VALUE_DIM)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), dense(case, **OPTIONS[options]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_calls_for_devices_equal_dense_attention(options, dtype, monkeypatch):
    monkeypatch.setattr(sdpa, "_masks_grouped_heads", lambda device: False)
    case = make_case(SHAPES["odd batch"], dtype=dtype)
    out = run(case, "sdpa", **OPTIONS[options])
    limit = 1e-5 if dtype == torch.float32 else 2e-2
    assert out.dtype == dtype
    torch.testing.assert_close(
        out.double(), dense(case, **OPTIONS[options]), atol=limit, rtol=limit
    )


def test_the_calls_for_devices_keep_no_mask_and_no_scores(monkeypatch):
    """Kernels for devices have no mask with grouped heads, and cuDNN plans for every shape."""
    calls = []

    def attention(query, keys, values, attn_mask, scale):
        allowed = torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
        calls.append((type(attn_mask), query.shape[1], keys.shape[1], allowed))
        return torch.zeros(*query.shape[:3], values.shape[-1])

    monkeypatch.setattr(sdpa, "_masks_grouped_heads", lambda device: False)
    monkeypatch.setattr(sdpa.F, "scaled_dot_product_attention", attention)
    case = make_case([DEEP])
    run(case, "sdpa")
    assert calls == [(CausalBias, HEADS, HEADS, (False, True))]


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
def test_implementations_agree_on_random_segments(segments, window, seed):
    case = make_case(segments, seed)
    fast = run(case, "sdpa", sliding_window=window)
    torch.testing.assert_close(
        fast, run(case, "naive", sliding_window=window), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_window_zero_length_pool_parts_do_not_matter(implementation):
    """Slots outside the window may be overwritten without any effect."""
    case = make_case([((6, 6), 3)])
    before = run(case, implementation, sliding_window=4)
    (first, _) = case.work.segments[0].ranges
    case.keys[:, first[0] : first[1]] = 50.0
    case.values[:, first[0] : first[1]] = 50.0
    assert torch.equal(run(case, implementation, sliding_window=4), before)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(implementation, dtype):
    case = make_case(SHAPES["odd batch"], dtype=dtype)
    out = run(case, implementation)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), dense(case), atol=3e-2, rtol=3e-2)


def test_poison_would_show():
    """The NaN in unused slots reaches the result as soon as one of them is read."""
    case = make_case([ONE_TOKEN])
    segment = case.work.segments[0]
    (a, b), rest = segment.ranges[0], segment.ranges[1:]
    wrong = SegmentWork(0, 1, ((a - 1, b), *rest), segment.own, segment.start + 1)
    case.work = AttentionWork((wrong,), 1)
    assert run(case, "naive").isnan().any()
    assert run(case, "sdpa").isnan().any()
