"""Ctrl-C that waits for what is being computed to be stored."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_when_stored(say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Turn the first Ctrl-C into a wish that the block grants where it calls what it receives.

    A second Ctrl-C interrupts at once. Outside the main thread Ctrl-C is left alone.

    Args:
        say: Receives a line when the first one comes.

    Yields:
        A function that raises ``KeyboardInterrupt`` if there was a Ctrl-C.
    """
    wanted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal wanted
        if wanted:
            raise KeyboardInterrupt
        wanted = True
        say("stopping once the rows at hand are stored; press Ctrl-C again to stop now")

    def check() -> None:
        if wanted:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
