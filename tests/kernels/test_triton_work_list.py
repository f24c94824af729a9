"""The launch plan of the Triton kernel: every visible key is read once, by the right tile."""

import naive_work_list
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_cases import DEEP, ONE_TOKEN, ROOT, SHAPES, make_case
from icm_fast.kernels.tree_attention import AttentionWork, SegmentWork, naive
from icm_fast.kernels.tree_attention.tiles import EVERY_LENGTH
from icm_fast.kernels.tree_attention.work_list import PlanSettings, launch_plan, make_plan
from icm_fast.model.forward.tile_search import batch_work
from icm_fast.plan.uniform import uniform_plan


def plan_settings(
    group=1, block_m=4, block_n=4, window=None, n_sms=0, kv_heads=1, lengths=EVERY_LENGTH
):
    cpu = torch.device("cpu")
    return PlanSettings(group, kv_heads, block_m, block_n, lengths, window, n_sms, cpu)


def read_slots(plan, low, high):
    """``{slot: position}`` of the keys in some blocks; no slot may occur twice."""
    slots = {}
    for slot, count, position, _ in plan.blocks[low:high].tolist():
        for k in range(count):
            assert slot + k not in slots
            slots[slot + k] = position + k
    return slots


def check(work, settings):
    """By ``naive.visibility``, each row of each tile finds its keys in the blocks that it reads."""
    plan = make_plan(work, settings)
    segments = {s.begin: s for s in work.segments}
    visible = {s.begin: visible_slots(s, settings) for s in work.segments}
    read, rows = {}, {}
    for begin, first, n_rows, start, low, whole, high, _ in plan.items.tolist():
        segment = segments[begin]
        assert start == segment.start
        assert n_rows == (segment.end - begin) * settings.group
        assert low <= whole <= high
        slots = read_slots(plan, low, high)
        assert not slots.keys() & read.get((begin, first), {}).keys()
        read.setdefault((begin, first), {}).update(slots)
        rows[begin, first] = range(first, min(first + settings.block_m, n_rows))
        for _, count, position, _ in plan.blocks[low:whole].tolist():
            assert count == settings.block_n
            assert position + count <= start
            assert not settings.sliding_window
    for (begin, first), slots in read.items():
        tokens = {row // settings.group for row in rows[begin, first]}
        needed = {slot: at for token in tokens for slot, at in visible[begin][token].items()}
        assert needed.items() <= slots.items()
        # At most a part of a block on either side is read for nothing.
        spare = len(slots) - len(needed)
        assert spare <= 2 * settings.block_n
    tiles = {(s.begin, row) for s in work.segments for row in first_rows(s, settings)}
    assert set(read) == tiles
    return plan


def first_rows(segment, settings):
    n_rows = (segment.end - segment.begin) * settings.group
    return range(0, n_rows, settings.block_m) if n_rows in settings.lengths else ()


def visible_slots(segment, settings):
    """For each token of the segment ``{slot: position}`` of the keys that it sees."""
    length = segment.end - segment.begin
    ranges = [*segment.ranges, (segment.own, segment.own + length)]
    slots = [slot for a, b in ranges for slot in range(a, b)]
    visible = naive.visibility(segment, settings.sliding_window).tolist()
    return [{slots[at]: at for at, seen in enumerate(row) if seen} for row in visible]


@pytest.mark.parametrize("n_sms", [0, 3, 1000])
@pytest.mark.parametrize("window", [None, 1, 5, 1000])
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_read_what_their_rows_see(shape, group, window, n_sms):
    work = make_case(SHAPES[shape]).work
    check(work, plan_settings(group, window=window, n_sms=n_sms))


@pytest.mark.parametrize("group", [1, 3])
def test_a_launch_serves_segments_of_its_lengths(group):
    work = make_case(SHAPES["odd batch"]).work
    plans = [
        check(work, plan_settings(group, lengths=lengths))
        for lengths in (EVERY_LENGTH, range(1, 7), range(7, 1000), range(1000, 1001))
    ]
    tiles = [len(plan.items) for plan in plans]
    assert tiles[0] == tiles[1] + tiles[2]
    assert min(tiles[1:3]) > 0
    assert tiles[3] == plans[3].slot_end == 0


@settings(max_examples=60, deadline=None)
@given(
    segments=st.lists(
        st.tuples(st.lists(st.integers(0, 30), max_size=6), st.integers(0, 30)),
        max_size=4,
    ),
    window=st.one_of(st.none(), st.integers(1, 60)),
    group=st.sampled_from([1, 3, 4]),
    block_m=st.sampled_from([1, 4, 16]),
    block_n=st.sampled_from([1, 4, 16]),
    n_sms=st.sampled_from([0, 2, 100]),
)
def test_random_segments(segments, window, group, block_m, block_n, n_sms):
    check(
        make_case(segments).work,
        plan_settings(group, block_m=block_m, block_n=block_n, window=window, n_sms=n_sms),
    )


def test_long_tiles_are_split_and_merged():
    work = make_case([((400,), 4), ONE_TOKEN]).work
    plan = make_plan(work, plan_settings(n_sms=4))
    blocks_of = np.diff(plan.items.numpy()[:, [4, 6]], axis=1)[:, 0]
    assert blocks_of.tolist() == sorted(blocks_of, reverse=True)
    (merge,) = plan.merges.tolist()
    assert merge[:5] == [0, 0, 4, 400, 0]
    assert merge[5] == plan.n_partials == 8
    assert sorted(plan.items[:, 7].tolist()) == [-1, *range(8)]


def test_many_tiles_are_not_split():
    work = make_case([((40,), 4)] * 20).work
    plan = make_plan(work, plan_settings(n_sms=4))
    assert plan.n_partials == 0
    assert plan.merges.shape == (0, 6)


def test_more_heads_need_fewer_parts():
    work = make_case([((400,), 4)]).work
    parts = [make_plan(work, plan_settings(n_sms=8, kv_heads=n)).n_partials for n in (1, 2, 16)]
    assert parts == sorted(parts, reverse=True)
    assert parts[-1] == 0


def test_ranges_side_by_side_are_one():
    work = AttentionWork((SegmentWork(0, 2, ((0, 3), (3, 8), (9, 12)), 12, 11),), 2)
    plan = make_plan(work, plan_settings())
    blocks = plan.blocks[:, :3].tolist()
    # The own range stays apart from the ancestor that it touches: it needs a mask, the other not.
    assert blocks == [[0, 4, 0], [4, 4, 4], [9, 3, 8], [12, 2, 11]]
    assert plan.slot_end == 14


def test_a_plan_is_made_once_and_is_no_part_of_the_work():
    work, same = make_case([DEEP]).work, make_case([DEEP]).work
    first = launch_plan(work, plan_settings())
    assert launch_plan(work, plan_settings()) is first
    assert launch_plan(work, plan_settings(window=3)) is not first
    assert work == same
    assert hash(work) == hash(same)


def check_same(work, settings):
    """All tables equal those of the plain implementation."""
    plan, expected = make_plan(work, settings), naive_work_list.make_plan(work, settings)
    for name in ("items", "blocks", "merges"):
        table, wanted = getattr(plan, name), getattr(expected, name)
        assert table.dtype == wanted.dtype == torch.int32
        assert table.is_contiguous()
        assert table.shape == wanted.shape
        assert table.tolist() == wanted.tolist()
    assert (plan.n_partials, plan.slot_end) == (expected.n_partials, expected.slot_end)


@st.composite
def works(draw):
    """Segments whose ranges may be empty, touch each other, overlap or be shared."""
    shared = draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), max_size=3))
    segments, row = [], 0
    for _ in range(draw(st.integers(0, 6))):
        ranges, slot = [(a, a + n) for a, n in shared[: draw(st.integers(0, 3))]], 0
        for gap, length in draw(
            st.lists(st.tuples(st.sampled_from([0, 0, 1, 7]), st.integers(0, 40)), max_size=12)
        ):
            ranges.append((slot + gap, slot + gap + length))
            slot += gap + length
        own = slot + draw(st.sampled_from([0, 0, 2]))
        length = draw(st.sampled_from([0, 1, 1, 2, 15, 16, 17, 33, 70]))
        start = sum(b - a for a, b in ranges)
        segments.append(SegmentWork(row, row + length, tuple(ranges), own, start))
        row += length
    return AttentionWork(tuple(segments), row)


@settings(max_examples=300, deadline=None)
@given(
    work=works(),
    window=st.one_of(st.none(), st.integers(1, 150)),
    group=st.sampled_from([1, 3, 4]),
    kv_heads=st.sampled_from([1, 2, 8]),
    block_m=st.sampled_from([1, 3, 16, 64]),
    block_n=st.sampled_from([1, 5, 16, 64]),
    n_sms=st.sampled_from([0, 1, 2, 5, 132]),
    lengths=st.sampled_from([EVERY_LENGTH, range(1, 17), range(17, 1000), range(0, 2), range(0)]),
)
def test_plans_are_those_of_the_plain_one(
    work, window, group, kv_heads, block_m, block_n, n_sms, lengths
):
    check_same(work, plan_settings(group, block_m, block_n, window, n_sms, kv_heads, lengths))


@pytest.mark.parametrize("n_sms", [0, 8, 132])
@pytest.mark.parametrize("window", [None, 100])
def test_plans_of_a_tree_are_those_of_the_plain_one(window, n_sms):
    tree = uniform_plan(33, demonstration=43, query=40, root=1, batch_tokens=700)
    for batch in range(tree.n_batches):
        for block_m, lengths in ((16, range(1, 17)), (64, range(17, 1 << 62))):
            check_same(
                batch_work(tree, batch), plan_settings(4, block_m, 32, window, n_sms, 8, lengths)
            )


def test_wrong_work_is_refused():
    (root,) = make_case([ROOT]).work.segments
    bad = {
        "must follow each other and cover 8 rows": AttentionWork((root,), 8),
        "backwards": AttentionWork((SegmentWork(0, 7, ((5, 3),), 9, 0),), 7),
        "below 0": AttentionWork((SegmentWork(0, 7, (), -1, 0),), 7),
        "add up": AttentionWork((SegmentWork(0, 7, ((0, 3),), 9, 2),), 7),
    }
    for message, work in bad.items():
        with pytest.raises(ValueError, match=message):
            make_plan(work, plan_settings())


FAR = 2**31
TOO_FAR = {
    "a range": AttentionWork((SegmentWork(0, 1, ((FAR - 1, FAR),), 0, 1),), 1),
    "own": AttentionWork((SegmentWork(0, 1, (), FAR - 1, 0),), 1),
    "rows": AttentionWork((SegmentWork(0, FAR, (), 0, 0),), FAR),
    "rows and heads": AttentionWork((SegmentWork(0, FAR // 4, (), 0, 0),), FAR // 4),
    "a position": AttentionWork((SegmentWork(0, 1, ((0, FAR - 1), (0, 9)), 0, FAR + 8),), 1),
}


@pytest.mark.parametrize("what", TOO_FAR)
def test_numbers_beyond_the_tables_are_refused(what):
    with pytest.raises(ValueError, match=r"below 2\^31"):
        make_plan(TOO_FAR[what], plan_settings(group=4))


@pytest.mark.parametrize("name", ["group", "kv_heads", "block_m", "block_n", "window", "n_sms"])
def test_settings_out_of_bounds_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is -1"):
        make_plan(make_case([ROOT]).work, plan_settings(**{name: -1}))
