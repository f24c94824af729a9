"""Draws of whole groups and the search/test split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_fast.errors import InputError
from icm_fast.tasks.sampling import in_split, pick_groups
from icm_fast.types import Example


def make(groups):
    return [Example(str(i), "p", group) for i, group in enumerate(groups)]


@given(
    groups=st.lists(st.sampled_from([None, "a", "b", "c", "d"]), min_size=1, max_size=30),
    limit=st.integers(30, 60) | st.integers(1, 30),
    seed=st.integers(0, 5),
)
def test_groups_stay_whole_under_the_limit(groups, limit, seed):
    examples = make(groups)
    try:
        picked = pick_groups(examples, limit, seed)
    except InputError:
        assert max(groups.count(group) for group in "abcd") > limit
        return
    assert picked == sorted(set(picked))
    assert 0 < len(picked) <= limit
    for group in "abcd":
        taken = sum(groups[i] == group for i in picked)
        assert taken in (0, groups.count(group))
    if limit >= len(examples):
        assert picked == list(range(len(examples)))


def test_draws_are_seeded_nested_and_fixed_for_ever():
    examples = make([None] * 40)
    assert pick_groups(examples, None, 0) == list(range(40))
    assert pick_groups(examples, 5, 0) == [0, 13, 20, 25, 30]
    assert pick_groups(examples, 5, 1) != pick_groups(examples, 5, 0)
    assert set(pick_groups(examples, 5, 0)) < set(pick_groups(examples, 10, 0))


def test_small_limits_say_how_much_is_needed():
    with pytest.raises(InputError, match=r"limit 3 is smaller than group 'g' with its 4 examples"):
        pick_groups(make("gggg"), 3, 0)
    for limit in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="integer of at least 1"):
            pick_groups(make("g"), limit, 0)


def test_split_covers_everything_once():
    keys = [f"text {i}" for i in range(1000)]
    test = [key for key in keys if in_split(key, "test")]
    assert 150 < len(test) < 250
    assert all(in_split(key, "search") != in_split(key, "test") for key in keys)
    assert all(in_split(key, "all") for key in keys)
