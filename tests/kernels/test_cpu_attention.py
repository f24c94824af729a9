"""Native tree attention against the definition, with every instruction set of this processor."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_cases import ONE_TOKEN, OPTIONS, SHAPES, Sizes, make_case
from icm_fast import _core
from icm_fast.kernels.tree_attention import naive

ISA_VARIABLE = "ICM_FAST_ISA"
ISAS = ("portable", "avx2", "avx512")
# The fastest one is what all tests of this process run with.
SLOWER = ISAS[: ISAS.index(_core.cpu_isa("float32"))]
LAYER = 1  # of two, so that a wrong layer shows
GARBAGE = 1e30

# Long contexts, ranges around the block of 128 keys, and more ranges than a block may hold.
LONG_SHAPES = SHAPES | {
    "deeper": [(tuple(1 + k % 3 for k in range(75)), 3)],
    "long": [((127, 129, 1), 2), ((130,), 1), ((3,), 150)],
}
HEADS = {"1": (1, 1), "8 of 8": (8, 8), "6 of 1": (6, 1), "9 of 3": (9, 3), "9 of 1": (9, 1)}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def dtype(request):
    if _core.cpu_isa(request.param) is None:
        pytest.skip(f"this processor has no {request.param} dot products")
    return request.param


def equal_widths(heads=4, kv_heads=2, dim=8):
    return Sizes(heads, kv_heads, dim, dim)


def rows(tensor):
    """``[heads, tokens, dim]`` to an array ``[tokens, heads, dim]``."""
    return tensor.transpose(0, 1).contiguous().numpy()


def fill(pool, case, garbage=GARBAGE):
    keys, values = (torch.nan_to_num(t, nan=garbage) for t in (case.keys, case.values))
    pool.write(LAYER, rows(keys), rows(values), np.arange(len(case.used)))


def segment_arrays(work):
    ranges = [r for segment in work.segments for r in segment.ranges]
    counts = [len(segment.ranges) for segment in work.segments]
    return {
        "n_tokens": np.array([s.end - s.begin for s in work.segments], np.int64),
        "own": np.array([s.own for s in work.segments], np.int64),
        "range_offsets": np.cumsum([0, *counts], dtype=np.int64),
        "range_begin": np.array([begin for begin, _ in ranges], np.int64),
        "range_end": np.array([end for _, end in ranges], np.int64),
    }


def make_pool(attention, case):
    heads, slots, dim = case.keys.shape
    return attention.make_pool(n_layers=2, n_heads=heads, head_dim=dim, n_slots=slots)


def attend(attention, pool, case, **options):
    sinks = options.get("sinks")
    out = attention.attend(
        pool,
        LAYER,
        rows(case.query),
        **segment_arrays(case.work),
        scaling=options.get("scaling", case.query.shape[-1] ** -0.5),
        window=options.get("sliding_window") or 0,
        softcap=options.get("softcap") or 0.0,
        sinks=None if sinks is None else sinks.numpy(),
    )
    return torch.from_numpy(out).transpose(0, 1)


def native(case, dtype, *, n_threads=2, garbage=GARBAGE, **options):
    attention = _core.TreeAttention(dtype, n_threads)
    pool = make_pool(attention, case)
    fill(pool, case, garbage)
    return attend(attention, pool, case, **options)


def definition(case, **options):
    options.setdefault("scaling", case.query.shape[-1] ** -0.5)
    return naive.tree_attention(case.query, case.keys, case.values, case.work, **options)


def rounded_case(segments, dtype, sizes, seed=0):
    """A case whose numbers are exact in ``dtype``, as float32."""
    case = make_case(segments, seed, getattr(torch, dtype), sizes)
    case.query, case.keys, case.values = (t.float() for t in (case.query, case.keys, case.values))
    return case


def check(case, dtype, **options):
    expected = definition(case, **options)
    result = native(case, dtype, **options)
    assert result.shape == expected.shape
    if dtype == "float32":
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    else:
        limit = 2e-2 * float(expected.abs().max())
        torch.testing.assert_close(result, expected, atol=limit, rtol=0)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", LONG_SHAPES)
def test_equals_the_definition(dtype, options, shape):
    check(rounded_case(LONG_SHAPES[shape], dtype, equal_widths()), dtype, **OPTIONS[options])


@pytest.mark.parametrize("dim", [2, 12, 64, 80, 128, 256])
@pytest.mark.parametrize("heads", HEADS)
def test_every_number_of_heads_and_width(dtype, heads, dim):
    check(rounded_case(SHAPES["odd batch"], dtype, equal_widths(*HEADS[heads], dim)), dtype)


@settings(max_examples=60, deadline=None)
@given(
    segments=st.lists(
        st.tuples(st.lists(st.integers(1, 40), max_size=40), st.integers(1, 40)),
        min_size=1,
        max_size=4,
    ),
    window=st.one_of(st.none(), st.integers(1, 200)),
    heads=st.sampled_from([*HEADS.values()]),
    seed=st.integers(0, 1000),
)
def test_equals_the_definition_on_random_segments(segments, window, heads, seed):
    case = rounded_case(segments, "float32", equal_widths(*heads), seed)
    check(case, "float32", sliding_window=window)


def test_threads_change_no_bit(dtype):
    case = rounded_case(LONG_SHAPES["long"], dtype, equal_widths())
    one, two, four = (native(case, dtype, n_threads=n) for n in (1, 2, 4))
    assert torch.equal(one, two)
    assert torch.equal(one, four)


def test_slots_of_others_do_not_matter(dtype):
    case = rounded_case(SHAPES["odd batch"], dtype, equal_widths())
    assert torch.equal(native(case, dtype, garbage=0.0), native(case, dtype, garbage=-1e37))


def test_a_pool_serves_again_after_a_write(dtype):
    attention = _core.TreeAttention(dtype, 1)
    case = rounded_case(SHAPES["odd batch"], dtype, equal_widths())
    pool = make_pool(attention, case)
    fill(pool, rounded_case(SHAPES["odd batch"], dtype, equal_widths(), seed=7))
    other = attend(attention, pool, case)
    fill(pool, case)
    assert torch.equal(attend(attention, pool, case), native(case, dtype, n_threads=1))
    assert not torch.equal(other, native(case, dtype))


def test_no_segments_are_nothing_to_do(dtype):
    attention = _core.TreeAttention(dtype, 1)
    pool = make_pool(attention, make_case([ONE_TOKEN], sizes=equal_widths()))
    empty = np.zeros(0, np.int64)
    out = attention.attend(
        pool,
        0,
        np.zeros((0, 4, 8), np.float32),
        n_tokens=empty,
        own=empty,
        range_offsets=np.zeros(1, np.int64),
        range_begin=empty,
        range_end=empty,
        scaling=1.0,
        window=0,
        softcap=0.0,
        sinks=None,
    )
    assert out.shape == (0, 4, 8)


def test_pools_know_their_size(dtype):
    pool = _core.TreeAttention(dtype, 1).make_pool(n_layers=2, n_heads=3, head_dim=8, n_slots=7)
    assert pool.n_slots == 7
    slots, size = (7, 4) if dtype == "float32" else (8, 2)
    assert pool.n_bytes == 2 * 2 * 3 * slots * 8 * size


def bad_calls():
    """Bad calls by name: a part of the message, and the arguments of ``attend`` that cause it."""
    ranges = {"n_tokens": [3], "own": [4], "range_offsets": [0, 1], "range_begin": [0]}
    good = {**ranges, "range_end": [4]}
    query = np.zeros((3, 4, 8), np.float32)
    return {
        "width": ("of the pool", {"query": np.zeros((3, 4, 6), np.float32)}),
        "heads": ("of the pool", {"query": np.zeros((3, 3, 8), np.float32)}),
        "axes": ("of the pool", {"query": np.zeros((3, 32), np.float32)}),
        "layer": ("no such layer", {"layer": 2}),
        "no layer": ("no such layer", {"layer": -1}),
        "sinks": ("sinks must be", {"sinks": np.zeros(3, np.float32)}),
        "rows": ("cover all query rows", {"query": query[:2]}),
        "outside": ("outside the pool", {"own": [6]}),
        "far outside": ("outside the pool", {"own": [2**62]}),
        "before": ("outside the pool", {"range_begin": [-1]}),
        "backwards": ("outside the pool", {"range_end": [0]}),
        "lengths": ("differ in length", {"own": [4, 4]}),
        "offsets": ("differ in length", {"range_offsets": [0]}),
        "ends": ("differ in length", {"range_end": [4, 5]}),
        "too far": ("outside the ranges", {"range_offsets": [0, 2]}),
        "negative": ("outside the ranges", {"range_offsets": [-1, 1]}),
    }, good | {"layer": 0, "query": query, "sinks": None}


@pytest.mark.parametrize("name", bad_calls()[0])
def test_bad_arguments_are_refused(name):
    attention = _core.TreeAttention("float32", 1)
    pool = attention.make_pool(n_layers=2, n_heads=2, head_dim=8, n_slots=8)
    cases, good = bad_calls()
    message, changes = cases[name]

    def call(arguments):
        arguments = {
            key: np.array(value, np.int64) if isinstance(value, list) else value
            for key, value in arguments.items()
        }
        return attention.attend(pool, scaling=1.0, window=0, softcap=0.0, **arguments)

    with pytest.raises(ValueError, match=message):
        call(good | changes)
    assert call(good).shape == (3, 4, 8)


@pytest.mark.parametrize(
    "changes", [{"head_dim": 7}, {"head_dim": 0}, {"n_layers": 0}, {"n_heads": 0}, {"n_slots": 0}]
)
def test_pools_of_no_size_are_refused(changes):
    sizes = {"n_layers": 1, "n_heads": 1, "head_dim": 2, "n_slots": 1}
    with pytest.raises(ValueError, match="even head_dim and positive sizes"):
        _core.TreeAttention("float32", 1).make_pool(**(sizes | changes))


def test_writes_outside_the_pool_are_refused():
    pool = _core.TreeAttention("float32", 1).make_pool(n_layers=1, n_heads=2, head_dim=4, n_slots=3)
    row = np.zeros((1, 2, 4), np.float32)
    for slot in (-1, 3):
        with pytest.raises(ValueError, match="a slot is outside"):
            pool.write(0, row, row, np.array([slot]))
    for layer, keys, values in (
        (1, row, row),
        (-1, row, row),
        (0, row[:, :1], row),
        (0, row, row[0, 0]),
    ):
        with pytest.raises(ValueError, match="keys and values must be"):
            pool.write(layer, keys, values, np.array([0]))


def test_unknown_dtypes_are_refused():
    with pytest.raises(ValueError, match="dtype float16 has no CPU kernels"):
        _core.TreeAttention("float16", 1)
    with pytest.raises(ValueError, match="dtype int8 has no CPU kernels"):
        _core.cpu_isa("int8")


@pytest.mark.skipif(_core.cpu_isa("bfloat16") is not None, reason="this processor has bfloat16")
def test_absent_dtype_is_refused():
    with pytest.raises(ValueError, match="no bfloat16 dot products; use float32"):
        _core.TreeAttention("bfloat16", 1)


@pytest.mark.skipif(_core.cpu_isa("bfloat16") is None, reason="this processor has no bfloat16")
@pytest.mark.parametrize(("ours", "theirs"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_pool_of_another_dtype_is_refused(ours, theirs):
    case = make_case([ONE_TOKEN], sizes=equal_widths())
    pool = make_pool(_core.TreeAttention(theirs, 1), case)
    with pytest.raises(ValueError, match="made for another dtype"):
        attend(_core.TreeAttention(ours, 1), pool, case)


def test_the_instruction_set_is_the_one_asked_for():
    assert _core.TreeAttention("float32", 1).isa == _core.cpu_isa("float32")
    wanted = os.environ.get(ISA_VARIABLE)
    if wanted in ISAS:
        assert _core.cpu_isa("float32") == wanted
        assert _core.cpu_isa("bfloat16") is None


@pytest.mark.skipif(ISA_VARIABLE in os.environ, reason="this is such a process already")
@pytest.mark.parametrize("isa", SLOWER)
def test_every_instruction_set_in_a_process_of_its_own(isa):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))],
        env=os.environ | {ISA_VARIABLE: isa},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
