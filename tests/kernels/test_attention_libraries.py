"""Other libraries behind the interface of tree attention, against its definition, on a CPU.

FlexAttention is torch's own, uncompiled; FlashAttention is absent, so stand-ins with its documented
signatures compute.
"""

import warnings
from dataclasses import replace
from functools import partial

import fake_flash_attention
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention

from attention_cases import DEEP, ONE_TOKEN, OPTIONS, ROOT, SHAPES, SINKS, Sizes, make_case
from icm_fast.kernels.tree_attention import AttentionWork, SegmentWork, flex, naive, trial, varlen
from icm_fast.kernels.tree_attention.versions import VERSIONS
from icm_fast.model.forward.tile_search import batch_work
from icm_fast.plan.uniform import uniform_plan

CPU = torch.device("cpu")
FLASH = ("flash_attn", "flash_attn_4", "torch_flash")


@pytest.fixture(autouse=True)
def libraries(monkeypatch):
    """Every library as a CPU can have it, and taken there."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    fake_flash_attention.install(monkeypatch)
    forward = fake_flash_attention.flash_attention_forward
    monkeypatch.setattr(varlen, "_flash_operator", lambda: forward)


def served(name, options):
    """Whether a version has these options."""
    if name == "torch_flash" and "softcap" in options:
        return False
    return not ("sinks" in options and name in ("torch_flash", "flash_attn"))


def both(case, attend, **options):
    options.setdefault("scaling", 0.35)
    tensors = (case.query, case.keys, case.values, case.work)
    return attend(*tensors, **options), naive.tree_attention(*tensors, **options)


def half(segments, seed=0, dtype=torch.bfloat16):
    return make_case(segments, seed, dtype, Sizes(value_dim=8))


# --- Against the definition ----------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_flex_attention_equals_the_definition(shape, options):
    """In float32, values of another width, unused slots NaN."""
    found, wanted = both(make_case(SHAPES[shape]), flex.tree_attention, **OPTIONS[options])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", trial.LIMITS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", FLASH)
def test_flash_attention_equals_the_definition(name, options, dtype):
    attend, case = VERSIONS[name].load(), half(SHAPES["odd batch"], dtype=dtype)
    if not served(name, OPTIONS[options]):
        with pytest.raises(ValueError, match=r"sinks|soft-capped"):
            both(case, attend, **OPTIONS[options])
        return
    found, wanted = both(case, attend, **OPTIONS[options])
    assert (found.dtype, found.shape) == (dtype, wanted.shape)
    torch.testing.assert_close(found, wanted, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("name", ["flex", *FLASH])
def test_every_library_passes_the_trial_of_our_kernels(name, monkeypatch):
    checked = []
    monkeypatch.setattr(trial, "_REPEATS", 1)
    monkeypatch.setattr(trial, "LIMITS", {torch.bfloat16: trial.LIMITS[torch.bfloat16]})

    def unserved(needs):
        options = {k for k in ("softcap", "sinks") if getattr(needs, k)}
        return "" if served(name, options) else "no such option"

    monkeypatch.setitem(VERSIONS, name, replace(VERSIONS[name], unserved_because=unserved))
    check = trial.check
    monkeypatch.setattr(trial, "check", lambda a, p: (check(a, p), checked.append(p.name)))
    trial.try_version(name, [64], CPU)
    kinds = {"plain", "window alone", "group of 1", "group of 3", "20", *("window",)}
    kinds = kinds | {"sinks"} if name in ("flex", "flash_attn_4") else kinds
    kinds = kinds - {"window"} if name == "torch_flash" else kinds
    assert {of.split(",")[0] for of in checked} == kinds
    assert len(checked) == len(kinds)


def test_a_wrong_library_fails_the_trial(monkeypatch):
    """One whose causal mask is aligned to the first row instead of the last."""
    real = fake_flash_attention.attention

    def wrong(q, k, v, rows, keys, **options):
        return real(q, k.roll(1, 0), v.roll(1, 0), rows, keys, **options)

    monkeypatch.setattr(fake_flash_attention, "attention", wrong)
    served_always = replace(VERSIONS["flash_attn_4"], unserved_because=lambda needs: "")
    monkeypatch.setitem(VERSIONS, "flash_attn_4", served_always)
    with pytest.raises(ArithmeticError, match=r"plain, 64 wide.*differs by"):
        trial.try_version("flash_attn_4", [64], CPU)


def test_a_trial_that_checks_nothing_is_not_passed():
    with pytest.raises(ArithmeticError, match="libraries are used on NVIDIA GPUs only"):
        trial.try_version("flex", [64], CPU)


# --- Batches of trees and of anything else -------------------------------------------------------


def tree_case(batch, n=9, demonstration=70, batch_tokens=600):
    """A batch whose segments share what stands before them."""
    plan = uniform_plan(n, demonstration=demonstration, query=40, root=1, batch_tokens=batch_tokens)
    work = batch_work(plan, batch)
    draw = torch.Generator().manual_seed(batch)
    query = torch.randn(4, work.n_tokens, 8, generator=draw)
    keys, values = torch.randn(2, 2, int(plan.pool_tokens), 8, generator=draw)
    return query, keys, values, work


def shared(*segments, pool=40):
    """Segments [(ranges, own, rows)] over one pool."""
    works, row = [], 0
    for ranges, own, rows in segments:
        start = sum(end - begin for begin, end in ranges)
        works.append(SegmentWork(row, row + rows, tuple(ranges), own, start))
        row += rows
    query = torch.randn(4, row, 8)
    keys, values = torch.randn(2, 2, pool, 8)
    return query, keys, values, AttentionWork(tuple(works), row)


OTHERS = {
    # The segment between does not see what both others do.
    "not side by side": (([(0, 5)], 20, 3), ([(5, 9)], 24, 2), ([(0, 5)], 27, 4)),
    # The same slots stand at other positions.
    "moved": (([(0, 5)], 20, 3), ([(5, 9), (0, 5)], 24, 2)),
    "part of a range": (([(0, 9)], 20, 3), ([(2, 7)], 24, 2), ([(2, 9)], 27, 1)),
    "one after the other": (([(3, 4)], 20, 1), ([(3, 4)], 21, 1), ([(3, 4), (21, 22)], 22, 1)),
}


@pytest.mark.parametrize("window", [None, 1, 90, 150])
@pytest.mark.parametrize("batch", range(5))
def test_trees_take_one_call_and_equal_the_definition(batch, window):
    query, keys, values, work = tree_case(batch)
    options = {"scaling": 0.3, "sliding_window": window}
    wanted = naive.tree_attention(query, keys, values, work, **options)
    for attend in (flex.tree_attention, partial(varlen.tree_attention, library=plain)):
        found = attend(query, keys, values, work, **options)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert [len(parts) for parts in work.plans.values()] == [1, 1]


@pytest.mark.parametrize("segments", OTHERS)
def test_other_batches_take_turns_and_equal_the_definition(segments):
    query, keys, values, work = shared(*OTHERS[segments])
    wanted = naive.tree_attention(query, keys, values, work, scaling=0.3)
    for attend in (flex.tree_attention, partial(varlen.tree_attention, library=plain)):
        found = attend(query, keys, values, work, scaling=0.3)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    n_parts, one = (len(parts) for parts in work.plans.values())
    assert (n_parts, one) == (2 if segments in ("not side by side", "moved") else n_parts, 1)


CHUNKS = ((0, 3), (3, 4), (5, 9), (9, 20), (21, 30))
"""Slots that contexts are made of; slot 4 and slot 20 belong to none."""


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    contexts=st.lists(
        st.tuples(st.permutations(range(5)), st.integers(0, 5), st.integers(1, 4)),
        min_size=1,
        max_size=6,
    ),
    window=st.one_of(st.none(), st.integers(1, 30)),
    limit=st.integers(0, 8000),
)
def test_any_batch_equals_the_definition(contexts, window, limit):
    """Contexts of the same chunks in any order, so that a slot stands at many positions."""
    segments = [
        ([CHUNKS[c] for c in order[:n_chunks]], 40 + 5 * k, rows)
        for k, (order, n_chunks, rows) in enumerate(contexts)
    ]
    query, keys, values, work = shared(*segments, pool=70)
    options = {"scaling": 0.3, "sliding_window": window}
    wanted = naive.tree_attention(query, keys, values, work, **options)
    by_copies = partial(varlen.tree_attention, library=plain, copied_bytes=limit)
    for attend in (flex.tree_attention, by_copies):
        found = attend(query, keys, values, work, **options)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def plain(query, keys, values, sequences, *, scaling, sliding_window, softcap, sinks):
    """A varlen library of any dtype."""
    return fake_flash_attention.attention(
        query,
        keys,
        values,
        sequences.row_offsets,
        sequences.key_offsets,
        scale=scaling,
        left=sliding_window - 1 if sliding_window else None,
        softcap=softcap or 0.0,
        sink=sinks,
    )


@pytest.mark.parametrize("window", [None, 1, 60, 128, 150, 1000])
@pytest.mark.parametrize("batch", range(5))
def test_block_masks_are_those_that_torch_would_make(batch, window):
    """torch asks for every row and key; ours come from the ranges. Uncompiled, none is read."""
    _, keys, _, work = tree_case(batch, n=12, demonstration=90, batch_tokens=900)
    (part,) = flex._parts(work, keys.shape[1], window, CPU)
    rows, n_keys = part.rows.stop - part.rows.start, len(part.slots)
    wanted = flex_attention.create_block_mask(
        part.mask.mask_mod, None, None, rows, n_keys, device="cpu"
    )
    for kind in ("kv", "full_kv"):
        assert torch.equal(*(listed(mask, kind) for mask in (part.mask, wanted))), kind
    assert part.mask.seq_lengths == wanted.seq_lengths == (rows, n_keys)


def listed(mask, kind):
    """The blocks of keys of every block of rows, as a table of truths."""
    numbers, indices = getattr(mask, f"{kind}_num_blocks"), getattr(mask, f"{kind}_indices")
    table = torch.zeros(indices.shape[-2:], dtype=torch.bool)
    for row, (number, blocks) in enumerate(zip(numbers[0, 0], indices[0, 0], strict=True)):
        table[row, blocks[:number].long()] = True
    return table


def test_full_blocks_are_found():
    """Otherwise the test above might compare masks without any."""
    _, keys, _, work = tree_case(3, n=12, demonstration=90, batch_tokens=900)
    (part,) = flex._parts(work, keys.shape[1], None, CPU)
    assert int(part.mask.full_kv_num_blocks.sum()) > 0


def test_a_slot_twice_in_a_context_is_refused():
    query, keys, values, work = shared(([(0, 5), (4, 7)], 20, 3))
    with pytest.raises(ValueError, match="holds a slot twice"):
        flex.tree_attention(query, keys, values, work, scaling=1.0)


# --- What is copied ------------------------------------------------------------------------------


def noted(calls):
    def library(query, keys, values, sequences, **options):
        calls.append((len(query), len(keys)))
        return plain(query, keys, values, sequences, **options)

    return library


def test_copies_keep_to_their_limit():
    """A part holds as many segments as fit, and one that does not fit is a part of its own."""
    case = make_case([((30,), 2), ((3,), 2), ((4,), 1), ((5,), 4)])
    key_bytes = 2 * (8 + 6) * 4
    for limit, wanted in (
        (1 << 30, [(9, 51)]),
        (15 * key_bytes, [(2, 32), (3, 10), (4, 9)]),
        (0, [(2, 32), (2, 5), (1, 5), (4, 9)]),
    ):
        calls = []
        attend = partial(varlen.tree_attention, library=noted(calls), copied_bytes=limit)
        found, definition = both(case, attend)
        torch.testing.assert_close(found, definition, atol=1e-5, rtol=1e-5)
        assert calls == wanted
    assert len(case.work.plans) == 3  # a plan for each limit


def test_keys_before_the_window_are_not_copied():
    calls = []
    case = make_case([((6, 6), 3)])
    attend = partial(varlen.tree_attention, library=noted(calls))
    found, wanted = both(case, attend, sliding_window=4)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert calls == [(3, 6)]  # three before the first row, and the rows


@pytest.mark.parametrize("name", ["flex", *FLASH])
def test_segments_without_rows_are_left_out(name):
    case = half([ONE_TOKEN, ((4,), 1)])
    first, last = case.work.segments
    between = SegmentWork(first.end, first.end, ((1, 3),), 2, 2)
    case.work = AttentionWork((between, first, between, last)[1:], 2)
    found, wanted = both(case, VERSIONS[name].load())
    torch.testing.assert_close(found, wanted, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("name", ["flex", *FLASH])
def test_a_batch_without_rows_has_no_result(name):
    case = half([ROOT])
    empty, work = case.query[:, :0], AttentionWork((), 0)
    attend = VERSIONS[name].load()
    assert attend(empty, case.keys, case.values, work, scaling=1.0).shape == (4, 0, 8)


@pytest.mark.parametrize("name", ["flex", *FLASH])
def test_plans_are_made_once_for_all_layers(name):
    case, attend = half([DEEP, ONE_TOKEN]), VERSIONS[name].load()
    for _ in range(3):
        both(case, attend)
    both(case, attend, sliding_window=3)
    assert len(case.work.plans) == 2


def change(work, **changes):
    return AttentionWork((replace(work.segments[0], **changes),), work.n_tokens)


@pytest.mark.parametrize("name", ["flex", "flash_attn"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda w: change(w, start=9), "ranges hold 8 tokens, but the segment starts at 9"),
        (lambda w: change(w, own=10_000), r"\(10000, 10001\) is not a range of"),
        (lambda w: change(w, ranges=((-3, 5),)), r"\(-3, 5\) is not a range of"),
        (lambda w: change(w, ranges=((5, 4), (1, 10))), r"\(5, 4\) is not a range of"),
        (lambda w: change(w, begin=1, end=2), "a segment begins at row 1, not 0"),
        (lambda w: AttentionWork(w.segments, 3), "have 1 rows, the work 3 and the query 1"),
    ],
)
def test_what_does_not_fit_is_refused(name, wrong, message):
    case = half([ONE_TOKEN])
    case.work = wrong(case.work)
    with pytest.raises(ValueError, match=message):
        VERSIONS[name].load()(case.query, case.keys, case.values, case.work, scaling=1.0)
    with pytest.raises(ValueError, match="sinks must be"):
        flex.tree_attention(
            case.query, case.keys, case.values, case.work, scaling=1.0, sinks=SINKS[:3]
        )


# --- What torch is told --------------------------------------------------------------------------


def test_torch_takes_the_call_of_its_flash_attention(monkeypatch):
    """Its own check of the operator's arguments, without a device."""
    monkeypatch.undo()
    case = half(SHAPES["odd batch"])
    (part,) = varlen._parts(case.work, 4, 1 << 20, CPU)
    there = replace(
        part, row_offsets=part.row_offsets.to("meta"), key_offsets=part.key_offsets.to("meta")
    )
    query, keys, values = (
        torch.empty(n, heads, 8, dtype=torch.bfloat16, device="meta")
        for n, heads in ((case.work.n_tokens, 4), (len(part.slots), 2), (len(part.slots), 2))
    )
    for window in (None, 4):
        out = varlen.torch_flash(
            query,
            keys,
            values,
            there,
            scaling=1.0,
            sliding_window=window,
            softcap=None,
            sinks=None,
        )
        assert out.shape == query.shape


def test_a_batch_of_another_size_is_not_compiled_anew(monkeypatch):
    """One graph, and another where the first batch had as many blocks of rows as of keys."""
    monkeypatch.undo()
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", partial(compiled, backend=counter))
    attend = flex._attention.__wrapped__(True)
    monkeypatch.setattr(flex, "_attention", lambda compiled: attend)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n, length in enumerate((150, 190, 480, 700)):
            draw = np.random.default_rng(n).integers(3, 90, 4).tolist()
            case = make_case([(draw, length), ((200 + n,), 2 * length)])
            found, wanted = both(case, flex.tree_attention)
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()
    assert counter.frame_count <= 2
