"""The log of decisions, one JSON line per engine event, readable while a search runs.

A resumed search replays its decisions from the start. The log therefore compares each
line with what the file already holds and writes only after the first difference (a line
torn by a crash): the final bytes are those of an uninterrupted run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from icm_fast.files import open_regular, write_all, writing


class EventLog:
    """An open log whose lines are being replayed and extended.

    Raises:
        InputError: The file system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self._descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
            self._former = _read(self._descriptor)
        self._end = 0

    def append(self, event: Mapping[str, object]) -> None:
        """Write one event as a line, unless the file already holds the same line here."""
        line = event_line(event)
        if self._former[self._end : self._end + len(line)] != line:
            with writing(self.path):
                self._cut()
                os.lseek(self._descriptor, self._end, os.SEEK_SET)
                write_all(self._descriptor, line)
        self._end += len(line)

    def finish(self) -> None:
        """Cut off everything after the last event and make the log durable."""
        with writing(self.path):
            self._cut()
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _cut(self) -> None:
        if len(self._former) != self._end:
            os.ftruncate(self._descriptor, self._end)
        self._former = b""


def _read(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    parts = []
    while part := os.read(descriptor, max(size, 1)):
        parts.append(part)
    return b"".join(parts)


def event_line(event: Mapping[str, object]) -> bytes:
    """One event as a JSON line; infinite and undefined numbers become null."""
    return (json.dumps(_plain(event), allow_nan=False, ensure_ascii=False) + "\n").encode()


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
