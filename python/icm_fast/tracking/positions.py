"""``tracking.json`` in the folder of a run: what each tracker has received already.

A search that resumes repeats its decisions from the start, and a training repeats the steps after
its last checkpoint; both come to the same figures. The number of a step is written down before the
step is sent, so that no tracker receives it twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from icm_fast.errors import InputError
from icm_fast.files import is_file, write_atomically, writing
from icm_fast.files.fields import read_object

POSITIONS_FILE = "tracking.json"


@dataclass(slots=True)
class Position:
    """How far a tracker is.

    Attributes:
        handle: What it calls the run; None before it was opened.
        steps: Number of the last step of each stream.
    """

    handle: str | None = None
    steps: dict[str, int] = field(default_factory=dict)


class Positions:
    """The positions of all trackers of a run; without a folder they last as long as the process.

    Raises:
        InputError: The file is damaged.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / POSITIONS_FILE
        self._known: dict[str, Position] = {}
        if self._path is not None and is_file(self._path):
            self._known = _read(self._path)

    def of(self, tracker: str) -> Position:
        """The position of a tracker; a new one where it was not used before."""
        return self._known.setdefault(tracker, Position())

    def write(self) -> None:
        """Make the positions durable."""
        if self._path is None:
            return
        content = {
            name: {"handle": position.handle, "steps": position.steps}
            for name, position in self._known.items()
        }
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, (json.dumps(content, indent=1) + "\n").encode())


def _read(path: Path) -> dict[str, Position]:
    fix = f"delete {path}, after which steps are reported from the first one"
    content = read_object(path, fix)
    found = {}
    for name in content.content:
        entry = content.inner(name)
        steps = entry.inner("steps")
        numbers = {stream: steps.integer(stream) for stream in steps.content}
        found[name] = Position(entry.optional_text("handle"), numbers)
    if not all(isinstance(p.handle, str) or not p.steps for p in found.values()):
        raise InputError(f"{path}: a tracker has steps but no handle; {fix}")
    return found
