"""Reporters that note what they hear, or call a function with it."""

from __future__ import annotations

from collections.abc import Callable

from icm_fast.engine.progress import Quiet
from icm_fast.types import Progress


class Listener(Quiet):
    """Notes lines and states; ``on_say`` and ``on_update`` are called with each of them."""

    def __init__(
        self,
        on_update: Callable[[Progress], object] | None = None,
        on_say: Callable[[str], object] | None = None,
    ) -> None:
        self.lines: list[str] = []
        self.states: list[Progress] = []
        self._on_update, self._on_say = on_update, on_say

    def say(self, text: str) -> None:
        self.lines.append(text)
        if self._on_say:
            self._on_say(text)

    def update(self, progress: Progress) -> None:
        self.states.append(progress)
        if self._on_update:
            self._on_update(progress)

    @property
    def done(self) -> list[int]:
        """How far the work was at every update."""
        return [state.done for state in self.states]
