"""One function for many items, by one thread or several."""

from __future__ import annotations

import threading
import time

import pytest

from icm_fast.scoring.side_by_side import settle, side_by_side


def test_in_turn_an_item_is_read_when_the_one_before_is_done():
    seen = []

    def items():
        for k in range(3):
            seen.append(f"item {k}")
            yield k

    for place, result in side_by_side(lambda k: k * k, items(), 1):
        seen.append(f"result {place} {result}")
    assert seen == [
        *("item 0", "result 0 0", "item 1", "result 1 1", "item 2", "result 2 4"),
    ]


def test_results_come_as_they_are_ready_and_no_more_at_once_than_allowed():
    released = [threading.Event() for _ in range(5)]
    active, most = set(), []

    def work(k):
        active.add(k)
        most.append(len(active))
        assert released[k].wait(10)
        active.remove(k)
        return k

    results = side_by_side(work, range(5), 2)
    order = []
    for k in (1, 2, 0, 4, 3):
        released[k].set()
        order.append(next(results))
    assert order == [(k, k) for k in (1, 2, 0, 4, 3)]
    assert list(results) == []
    assert max(most) == 2


@pytest.mark.parametrize("error", [ValueError("late"), KeyboardInterrupt()])
def test_an_error_ends_it(error):
    begun = []

    def work(k):
        begun.append(k)
        if k == 3:
            raise error
        return k

    with pytest.raises(type(error)):
        list(side_by_side(work, range(10_000), 3))
    settle(10)
    n_begun = len(begun)
    assert n_begun < 10_000
    time.sleep(0.02)
    assert len(begun) == n_begun


def test_an_error_of_the_items_ends_it():
    def items():
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(side_by_side(lambda k: k, items(), 2))


def test_settle_waits_no_longer_than_it_may():
    stop = threading.Event()
    results = side_by_side(lambda k: stop.wait(10) if k else True, range(2), 2)
    assert next(results) == (0, True)
    results.close()
    started = time.monotonic()
    settle(0.05)
    assert 0.04 < time.monotonic() - started < 5
    stop.set()
    settle(10)
