"""Triton's tree attention in the interpreter, against the definition."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attention_cases import DEEP, ONE_TOKEN, OPTIONS, ROOT, SHAPES, Sizes, make_case
from icm_fast.kernels.tree_attention import AttentionWork, SegmentWork, naive
from icm_fast.kernels.tree_attention.tiles import (
    HEAD_DIMS,
    SHORT_ROWS,
    Tile,
    default_tiles,
    shares_of,
    target_of,
)

TRITON = "tree_attention.triton.tree_attention"
SMALL = Tile(16, 16, 4, 2)
MANY_SMS = 1000  # so that every tile is split as far as the plan goes
GUARD = 64

SHAPES = SHAPES | {"long": [((40, 23, 70), 3), ((65,), 40), ROOT]}
HEADS = {"1 of 1": (1, 1), "2 of 2": (2, 2), "3 of 1": (3, 1), "8 of 2": (8, 2)}


def guarded(tensor):
    """The same numbers in a buffer with NaN around each head."""
    heads, rows, width = tensor.shape
    buffer = torch.full((heads + 2, rows + 2 * GUARD, width), math.nan, dtype=tensor.dtype)
    view = buffer[1:-1, GUARD:-GUARD]
    view.copy_(tensor)
    return view


def triton(interpreter, case, *, tile=SMALL, **options):
    options.setdefault("scaling", case.query.shape[-1] ** -0.5)
    tensors = [guarded(t) for t in (case.query, case.keys, case.values)]
    out, _ = interpreter.call(TRITON, *tensors, case.work, tile=tile, **options)
    return out


def definition(case, **options):
    options.setdefault("scaling", case.query.shape[-1] ** -0.5)
    tensors = (t.float() for t in (case.query, case.keys, case.values))
    return naive.tree_attention(*tensors, case.work, **options)


def check(interpreter, case, **options):
    settings = {name: options.pop(name) for name in ("tile", "n_sms") if name in options}
    out = triton(interpreter, case, **settings, **options)
    expected = definition(case, **options)
    assert out.dtype == case.query.dtype
    assert out.shape == expected.shape
    if out.dtype == torch.float32:
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    else:
        limit = 2e-2 * float(expected.abs().max())
        torch.testing.assert_close(out.float(), expected, atol=limit, rtol=0)


# Only the long segments have blocks enough for a split.
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    ("shape", "n_sms"), [*((shape, 0) for shape in SHAPES), ("long", MANY_SMS)]
)
def test_equals_the_definition(interpreter, shape, options, n_sms):
    check(interpreter, make_case(SHAPES[shape]), n_sms=n_sms, **OPTIONS[options])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", ["plain", "softcap and window", "sinks"])
@pytest.mark.parametrize("n_sms", [0, MANY_SMS])
def test_half_precision(interpreter, dtype, options, n_sms):
    case = make_case(SHAPES["odd batch"] + SHAPES["long"], dtype=dtype)
    check(interpreter, case, n_sms=n_sms, **OPTIONS[options])


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("tile", [SMALL, Tile(32, 16, 4, 2), Tile(16, 64, 4, 2)])
def test_groups_of_heads_and_tiles(interpreter, heads, tile):
    case = make_case([ONE_TOKEN, DEEP, ((33,), 18)], sizes=Sizes(*HEADS[heads]))
    check(interpreter, case, tile=tile, n_sms=MANY_SMS, sliding_window=20)


@pytest.mark.parametrize("dim", [32, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_widths_of_heads_with_their_default_tiles(interpreter, dim, dtype):
    case = make_case([((70,), 5), ROOT], dtype=dtype, sizes=Sizes(3, 1, dim, dim))
    check(interpreter, case, tile=None)


@pytest.mark.parametrize(("dim", "value_dim"), [(64, 32), (16, 80), (1, 3)])
def test_values_of_another_width(interpreter, dim, value_dim):
    case = make_case([((20, 9), 5)], sizes=Sizes(4, 2, dim, value_dim))
    check(interpreter, case, n_sms=MANY_SMS)


def test_a_large_cap(interpreter):
    case = make_case(SHAPES["odd batch"])
    check(interpreter, case, softcap=50.0, scaling=5.0)


def test_a_sink_of_no_weight(interpreter):
    case = make_case(SHAPES["long"])
    sinks = torch.tensor([-math.inf, 1.0, -math.inf, 30.0])
    for n_sms in (0, MANY_SMS):
        check(interpreter, case, n_sms=n_sms, sinks=sinks)


@pytest.mark.parametrize("n_sms", [0, MANY_SMS])
def test_empty_ranges_and_neighbours(interpreter, n_sms):
    """Empty ranges, and adjacent ranges, which are read as one."""
    case = make_case([((12, 20), 4)])
    segment = case.work.segments[0]
    (a, b), (c, d) = segment.ranges
    pieces = ((a, a), (a, a + 5), (a + 5, b), (d, d), (c, d), (c, c))
    case.work = AttentionWork((SegmentWork(0, 4, pieces, segment.own, segment.start),), 4)
    check(interpreter, case, n_sms=n_sms)
    check(interpreter, case, n_sms=n_sms, sliding_window=17)


def test_queries_of_any_strides(interpreter):
    """Queries with the strides of a projection, or with strided features."""
    case = make_case(SHAPES["odd batch"])
    expected = triton(interpreter, case)
    options = {"scaling": case.query.shape[-1] ** -0.5, "tile": SMALL}
    by_token = case.query.transpose(0, 1).contiguous().transpose(0, 1)
    apart = case.query.transpose(1, 2).contiguous().transpose(1, 2)
    for query in (by_token, apart):
        out, _ = interpreter.call(TRITON, query, case.keys, case.values, case.work, **options)
        assert torch.equal(out, expected)
        assert out.transpose(0, 1).is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_the_batch(interpreter, dtype):
    """With all defaults: neither the tile of a segment nor a split may depend on its neighbours."""
    case = make_case(SHAPES["long"] + SHAPES["odd batch"], dtype=dtype)
    together = triton(interpreter, case, tile=None)
    for segment in case.work.segments:
        rows = slice(segment.begin, segment.end)
        alone = SegmentWork(
            0, segment.end - segment.begin, segment.ranges, segment.own, segment.start
        )
        one = make_case([ROOT])
        one.query, one.keys, one.values = case.query[:, rows], case.keys, case.values
        one.work = AttentionWork((alone,), alone.end)
        assert torch.equal(triton(interpreter, one, tile=None), together[:, rows])


def test_splits_depend_on_the_batch_and_change_bits(interpreter):
    """Why they are not the default."""
    case = make_case(SHAPES["long"])
    whole = triton(interpreter, case)
    assert not torch.equal(triton(interpreter, case, n_sms=MANY_SMS), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", HEAD_DIMS)
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_every_length_has_one_default_tile(dtype, dim, capability):
    pair = default_tiles(dim, dtype, target_of(capability))
    shares = shares_of(pair)
    for n_rows in (1, SHORT_ROWS, SHORT_ROWS + 1, 100_000):
        (tile,) = (share.tile for share in shares if n_rows in share.lengths)
        assert tile == (pair.short if n_rows <= SHORT_ROWS else pair.long)


def test_the_pools_stay_as_they_are(interpreter):
    case = make_case(SHAPES["odd batch"])
    out, args = interpreter.call(
        TRITON, case.query, case.keys, case.values, case.work, scaling=1.0, tile=SMALL
    )
    assert not out.isnan().any()
    for before, after in zip((case.query, case.keys, case.values), args, strict=False):
        assert torch.equal(before.nan_to_num(7.0), after.nan_to_num(7.0))


def test_poison_would_show(interpreter):
    case = make_case([ONE_TOKEN])
    segment = case.work.segments[0]
    (a, b), rest = segment.ranges[0], segment.ranges[1:]
    wrong = SegmentWork(0, 1, ((a - 1, b), *rest), segment.own, segment.start + 1)
    case.work = AttentionWork((wrong,), 1)
    assert triton(interpreter, case).isnan().any()


def test_nothing_to_do(interpreter):
    case = make_case([ROOT])
    query = case.query[:, :0]
    work = AttentionWork((), 0)
    out, _ = interpreter.call(TRITON, query, case.keys, case.values, work, scaling=1.0)
    assert out.shape == (4, 0, 6)


def test_bad_calls(interpreter):
    case = make_case([ROOT])
    query, keys, values, work = case.query, case.keys, case.values, case.work
    short = AttentionWork(work.segments, 8)
    beyond = AttentionWork((SegmentWork(0, 7, (), keys.shape[1] - 6, 0),), 7)
    bad = {
        "do not match": (query[..., :4], keys, values, work),
        "not a multiple": (query[:3], keys, values, work),
        "dtypes differ": (query.half(), keys, values, work),
        "must follow each other": (query, keys, values, short),
        "does not fit": (query, keys, values, beyond),
    }
    for message, arguments in bad.items():
        with pytest.raises(ValueError, match=message):
            interpreter.call(TRITON, *arguments, scaling=1.0, tile=SMALL)
    with pytest.raises(ValueError, match="sinks must be"):
        interpreter.call(TRITON, query, keys, values, work, scaling=1.0, sinks=torch.zeros(3))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    segments=st.lists(
        st.tuples(st.lists(st.integers(1, 40), max_size=5), st.integers(1, 30)),
        min_size=1,
        max_size=3,
    ),
    window=st.one_of(st.none(), st.integers(1, 100)),
    heads=st.sampled_from([*HEADS.values()]),
    n_sms=st.sampled_from([0, 2, MANY_SMS]),
    seed=st.integers(0, 1000),
)
def test_equals_the_definition_on_random_segments(
    interpreter, segments, window, heads, n_sms, seed
):
    case = make_case(segments, seed, sizes=Sizes(*heads))
    check(interpreter, case, n_sms=n_sms, sliding_window=window)
