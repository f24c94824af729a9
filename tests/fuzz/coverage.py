"""Which lines of icm_fast an input reaches: inputs that reach new ones are worth changing again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import icm_fast

_PACKAGE = str(Path(icm_fast.__file__).parent)


class Coverage:
    """Lines that ran inside ``with`` blocks of this object, in this thread."""

    def __init__(self) -> None:
        self._seen: set[tuple[object, int]] = set()
        self._ours: dict[object, bool] = {}
        self.n_new = 0

    def __enter__(self) -> Self:
        self.n_new = 0
        self._former = sys.gettrace()  # such as that of a coverage report
        sys.settrace(self._call)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.settrace(self._former)

    def _call(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        code = frame.f_code
        ours = self._ours.get(code)
        if ours is None:
            ours = self._ours[code] = code.co_filename.startswith(_PACKAGE)
        return self._line if ours else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        key = (frame.f_code, frame.f_lineno)
        if key not in self._seen:
            self._seen.add(key)
            self.n_new += 1
        return self._line
