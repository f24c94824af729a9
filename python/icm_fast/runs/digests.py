"""What a finished run's files hold, as digests in summary.json: damage shows before it is believed.

They are no signature: whoever edits a folder can edit them, too. Runs of 0.1 have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from icm_fast.errors import InputError
from icm_fast.files import read_file
from icm_fast.files.fields import Fields

DIGESTS = "digests"
"""Key of summary.json: the SHA-256 (hex) of each file, and of what the summary says was found."""

_SUMMARY = "summary.json"
_HOW_IT_RAN = ("seconds", "versions", "n_evaluations_resumed", "computing")
_LENGTH = 64
_EDITED = f'or delete "{DIGESTS}" from {_SUMMARY} to read the folder as it is'


def with_digests(
    summary: Mapping[str, object], folder: Path, names: Iterable[str], fix: str
) -> dict[str, object]:
    """The summary with the digests of itself and of files of the folder."""
    files = {name: _digest(read_file(folder / name, fix)) for name in names}
    return {**summary, DIGESTS: {**files, _SUMMARY: _own_digest(summary)}}


def is_sealed(summary: Mapping[str, object], path: Path) -> bool:
    """Whether the digest that a summary has of a file is that of its content."""
    digests = summary[DIGESTS]
    assert isinstance(digests, Mapping), "checked when the summary was read"
    return bool(digests.get(path.name) == _digest(read_file(path, _EDITED)))


def check_summary(summary: Fields) -> None:
    """Refuse a summary that says something else than what was written.

    Raises:
        InputError: It, or the list of digests, is damaged.
    """
    if DIGESTS not in summary.content:
        return
    digests = summary.inner(DIGESTS)
    for name in digests.content:
        if len(digests.text(name)) != _LENGTH or "/" in name:
            raise digests.wrong(name, "a SHA-256")
    if digests.text(_SUMMARY) != _own_digest(summary.content):
        raise summary.error(f"it is not as the search wrote it; {_EDITED}")


def check_files(summary: Mapping[str, object], folder: Path, fix: str) -> None:
    """Refuse files of a finished run that are not as they were written.

    Args:
        summary: As :func:`check_summary` accepts it.
        folder: The run folder.
        fix: What the user can do.

    Raises:
        InputError: Names the file.
    """
    digests = summary.get(DIGESTS)
    if not isinstance(digests, Mapping):
        return
    for name, digest in digests.items():
        if name != _SUMMARY and _digest(read_file(folder / name, fix)) != digest:
            raise InputError(
                f"{folder / name} is not as the search wrote it, but damaged or edited; {fix}, "
                f"{_EDITED}"
            )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _own_digest(summary: Mapping[str, object]) -> str:
    """Of all that a summary says was found; how the search ran is left out."""
    found = {k: v for k, v in summary.items() if k not in (DIGESTS, *_HOW_IT_RAN)}
    return _digest(json.dumps(found, sort_keys=True).encode())
