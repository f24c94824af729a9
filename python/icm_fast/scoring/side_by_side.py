"""One function for many items: in turn, or several at once where others do the work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

_running: set[threading.Thread] = set()

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(
    function: Callable[[T], R], items: Iterable[T], width: int
) -> Iterator[tuple[int, R]]:
    """Call a function for each item; give each result with its place, as soon as it is there.

    With a width of 1 everything happens here and in order, and an item is read when its turn comes.
    Otherwise as many threads take items, and results come in the order in which they are ready.

    Args:
        function: Called in several threads.
        items: Read by one thread at a time, and only when one is free.
        width: Items that are worked on at once.

    Raises:
        BaseException: What ``function`` or ``items`` raise; no further item is begun.
    """
    if width == 1:
        for place, item in enumerate(items):
            yield place, function(item)
        return
    threads = _Threads(function, items, width)
    try:
        yield from threads.results()
    finally:
        threads.stopped = True


class _Threads(Generic[T, R]):
    """Threads that take items until there are none."""

    def __init__(self, function: Callable[[T], R], items: Iterable[T], width: int) -> None:
        self.stopped = False
        self._function = function
        self._items = enumerate(items)
        self._turn = threading.Lock()
        self._ready: SimpleQueue[tuple[int, R] | BaseException | None] = SimpleQueue()
        self._width = width

    def results(self) -> Iterator[tuple[int, R]]:
        """Begin, and give what is ready."""
        for _ in range(self._width):
            # Nobody waits for them: where an error ends the work, the result of a call that is
            # still on its way is of no use.
            thread = threading.Thread(target=self._work, daemon=True)
            _running.add(thread)
            thread.start()
        left = self._width
        while left:
            ready = self._ready.get()
            if ready is None:
                left -= 1
            elif isinstance(ready, BaseException):
                raise ready
            else:
                yield ready

    def _work(self) -> None:
        try:
            while not self.stopped:
                with self._turn:
                    taken = next(self._items, None)
                if taken is None:
                    break
                place, item = taken
                self._ready.put((place, self._function(item)))
        except BaseException as error:  # a Ctrl-C that was noticed here, too
            self.stopped = True
            self._ready.put(error)
        else:
            self._ready.put(None)
        finally:
            _running.discard(threading.current_thread())


def settle(seconds: float) -> None:
    """Wait until all threads have ended, such as those of work that was interrupted.

    Until then they may hold folders.

    Args:
        seconds: Time after which they are left alone.
    """
    end = time.monotonic() + seconds
    for thread in tuple(_running):
        thread.join(max(0.0, end - time.monotonic()))
