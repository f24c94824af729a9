"""One view of the progress of several threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from icm_fast.engine.progress import Quiet, Shared


@dataclass
class Part:
    done: int
    total: int | None
    text: str

    def describe(self) -> str:
        return self.text


class Recording(Quiet):
    def __init__(self):
        self.seen = []

    def update(self, progress):
        self.seen.append((progress.done, progress.total, progress.describe()))


def test_what_threads_do_is_added_up():
    shown = Recording()
    shared = Shared(shown)
    turns = [threading.Event(), threading.Event()]

    def other():
        with shared as entered:
            entered.update(Part(1, 5, "other"))
            turns[0].set()
            turns[1].wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    turns[0].wait(10)
    shared.update(Part(2, 10, "here"))
    shared.update(Part(3, 10, "here"))
    turns[1].set()
    thread.join()
    shared.update(Part(4, None, "here"))
    assert shown.seen == [
        (1, 5, "other"),
        (3, 15, "here  (and 1 more)"),
        (4, 15, "here  (and 1 more)"),
        (4, None, "here"),
    ]
