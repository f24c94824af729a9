"""In which order prompts are sent, so that a prefix cache computes every shared part once.

Sorted depth-first, a prompt shares its longest prefix with the one before it. It may be sent once
*one* prompt with that prefix has been computed: the first one. That makes a tree of prompts that
wait for each other, as deep as the tree of contexts, in which everything else runs side by side.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")


def waits_for(lengths: Sequence[int], shared: Sequence[int]) -> list[int]:
    """For each prompt, the earlier one that has to be computed before it; -1 for the first.

    Args:
        lengths: Tokens of each prompt, in depth-first order.
        shared: Tokens that each shares with the one before it.
    """
    found: list[int] = []
    # Nodes on the way to the last prompt: tokens of their prefix, and the first prompt with it.
    path: list[tuple[int, int]] = []
    for k, (length, common) in enumerate(zip(lengths, shared, strict=True)):
        first = k - 1
        while path and path[-1][0] > common:
            first = path.pop()[1]
        if path and path[-1][0] == common:
            first = path[-1][1]
        elif k:
            path.append((common, first))
        found.append(first)
        if not path or path[-1][0] < length:
            path.append((length, k))
    return found


def run_in_order(
    work: Callable[[int], T],
    after: Sequence[int],
    n_at_a_time: int,
    stop: Callable[[], None],
) -> Iterable[tuple[int, T]]:
    """Do numbered work on threads: a piece once that which it waits for is done, smallest first.

    Args:
        work: Does the piece of a number.
        after: For each piece, the one that has to be done before it; -1 for none.
        n_at_a_time: Maximum number of threads.
        stop: Makes pieces that run give up; called once one has failed.

    Yields:
        Number and result, as they are done.
    """
    waiting: dict[int, list[int]] = {}
    for k, before in enumerate(after):
        waiting.setdefault(before, []).append(k)
    ready = waiting.pop(-1, [])
    heapq.heapify(ready)
    running: dict[Future[T], int] = {}
    pool = ThreadPoolExecutor(n_at_a_time, thread_name_prefix="icm-fast-request")
    try:
        while ready or running:
            while ready and len(running) < n_at_a_time:
                k = heapq.heappop(ready)
                running[pool.submit(work, k)] = k
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                k = running.pop(future)
                result = future.result()
                for following in waiting.pop(k, []):
                    heapq.heappush(ready, following)
                yield k, result
    except BaseException:
        stop()
        pool.shutdown(wait=False, cancel_futures=True)  # an answer may take minutes
        raise
    pool.shutdown()
