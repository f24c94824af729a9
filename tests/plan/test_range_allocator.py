"""The allocator of token slots against a bitmap that is searched slot by slot."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_fast import _core

# A positive number allocates that many slots, a negative one frees one of the live ranges.
operations = st.lists(st.one_of(st.integers(1, 12), st.integers(-20, -1)), max_size=60)


def first_fit(used: set[int], size: int) -> int:
    offset = 0
    while any(slot in used for slot in range(offset, offset + size)):
        offset += 1
    return offset


def holes_below(used: set[int], capacity: int) -> int:
    return sum(s not in used and (s == 0 or s - 1 in used) for s in range(capacity))


@settings(deadline=None)
@given(steps=operations)
def test_allocator_is_first_fit(steps: list[int]) -> None:
    allocator = _core.RangeAllocator()
    live: dict[int, int] = {}
    used: set[int] = set()
    capacity = peak = 0
    for step in steps:
        if step > 0:
            offset = allocator.allocate(step)
            assert offset == first_fit(used, step)
            live[offset] = step
            used |= set(range(offset, offset + step))
        elif live:
            offset = sorted(live)[step % len(live)]
            allocator.release(offset)
            used -= set(range(offset, offset + live.pop(offset)))
        capacity = max(capacity, *(slot + 1 for slot in used), 0)
        peak = max(peak, len(used))
        allocator.check_integrity()
        assert (allocator.capacity, allocator.live, allocator.peak) == (capacity, len(used), peak)
        assert allocator.holes == holes_below(used, capacity)


def test_freed_neighbours_are_joined() -> None:
    allocator = _core.RangeAllocator()
    offsets = [allocator.allocate(4) for _ in range(4)]
    assert offsets == [0, 4, 8, 12]
    for offset in (0, 8, 4):
        allocator.release(offset)
        allocator.check_integrity()
    assert allocator.holes == 1
    assert allocator.allocate(12) == 0
    assert allocator.holes == 0


def test_pool_grows_from_a_hole_at_its_end() -> None:
    allocator = _core.RangeAllocator()
    allocator.allocate(3)
    allocator.release(allocator.allocate(2))
    assert allocator.allocate(5) == 3
    assert allocator.capacity == 8


@pytest.mark.parametrize("size", [0, -3])
def test_empty_ranges_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"1 slot or more, got {size}"):
        _core.RangeAllocator().allocate(size)


def test_release_needs_the_start_of_a_live_range() -> None:
    allocator = _core.RangeAllocator()
    offset = allocator.allocate(4)
    for wrong in (offset + 1, 77, -1):
        with pytest.raises(ValueError, match=f"no live range starts at slot {wrong}"):
            allocator.release(wrong)
    allocator.release(offset)
    with pytest.raises(ValueError, match="no live range"):
        allocator.release(offset)
