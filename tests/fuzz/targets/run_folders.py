"""Run folders with changed bytes, missing ends and lines in another order.

Every reader of a damaged folder refuses it, or does what it does with the undamaged one.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from icm_fast.errors import InputError
from icm_fast.evaluation.report import run_report
from icm_fast.export.tables import encode_run
from icm_fast.runs.finished import read_run

from ..target import CorruptionError, Target

FILES = (
    *("config.yaml", "examples.jsonl", "evaluations.bin", "events.jsonl", "labels.jsonl"),
    "summary.json",
)
FREE = {"seconds", "versions", "n_evaluations_resumed", "digests"}
"""Of a summary: what does not say what the search found."""


class RunFolders(Target):
    """A list of edits: which folder and file, what, where, and a value."""

    name = "run-folders"
    _EDIT = 7

    def prepare(self, folder: Path) -> None:
        """Search twice, once to the end, once until the scorer fails."""
        import recorded_searches as recorded

        self._recorded = recorded.SEARCHES[0]
        self._dataset = self._recorded.dataset()
        self._home = folder
        self._finished, self._cut = folder / "finished", folder / "cut"
        self._recorded.run(self._finished)
        scorer = self._recorded.scorer(self._dataset)
        self._search(self._cut, _Failing(scorer, 3), expect=KeyboardInterrupt)
        self._wanted = {name: read(self._finished) for name, read in self._readers().items()}

    def seeds(self) -> list[bytes]:
        """One edit of each file, besides the committed ones."""
        made = [
            bytes([base, file, kind, 0, 40, 1, 5])
            for base in range(2)
            for file in range(len(FILES))
            for kind in range(6)
        ]
        return super().seeds() + made

    def read(self, data: bytes) -> None:
        """Damage a copy, and read it in every way."""
        base = self._finished if (data or b"\0")[0] % 2 else self._cut
        damaged = self._home / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(base, damaged)
        for edit in _edits(data, self._EDIT):
            _apply(edit, damaged)
        readers = self._readers() if base == self._finished else {"resume": self._resume}
        for name, reader in readers.items():
            self._compare(name, reader, damaged)

    def _compare(self, name: str, reader: Callable[[Path], bytes], damaged: Path) -> None:
        try:
            found = reader(damaged)
        except InputError as error:
            if "\n" in str(error):
                raise
            return
        if found != self._wanted[name]:
            raise CorruptionError(f"{name} of a damaged folder: {found[:300]!r}")

    def _readers(self) -> dict[str, Callable[[Path], bytes]]:
        return {"report": _report, "export": _export, "resume": self._resume}

    def _resume(self, folder: Path) -> bytes:
        """What a search that is started again leaves behind."""
        self._search(folder, self._recorded.scorer(self._dataset))
        summary = json.loads((folder / "summary.json").read_bytes())
        kept = {key: value for key, value in summary.items() if key not in FREE}
        files = [(folder / name).read_bytes() for name in ("labels.jsonl", "events.jsonl")]
        return b"\n".join((*files, json.dumps(kept, sort_keys=True).encode()))

    def _search(
        self, folder: Path, scorer: object, expect: type[BaseException] | None = None
    ) -> None:
        import icm_fast

        try:
            icm_fast.search(
                self._dataset,
                model="recorded",
                scorer=scorer,  # type: ignore[arg-type]
                config=self._recorded.config,
                output_dir=folder,
            )
        except BaseException as error:
            if expect is None or not isinstance(error, expect):
                raise


class _Failing:
    """Scores until it is interrupted."""

    fingerprint = "hash-1"

    def __init__(self, scorer: object, after: int) -> None:
        self._scorer, self._left = scorer, after

    def score(self, labels: object, queries: object = None) -> object:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._scorer.score(labels, queries)  # type: ignore[attr-defined]

    def predict_tokens(self, labels: object, queries: object = None) -> int:
        return int(self._scorer.predict_tokens(labels, queries))  # type: ignore[attr-defined]


def _report(folder: Path) -> bytes:
    text = run_report(read_run(folder)).replace(str(folder), "FOLDER")
    return re.sub(r"[^,]* s\n", "\n", text, count=1).encode()  # the seconds


def _export(folder: Path) -> bytes:
    run = read_run(folder)
    return b"".join(encode_run(run, format).content for format in ("csv", "jsonl"))


def _edits(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, min(len(data), 4 * size), size):
        yield data[at : at + size].ljust(size, b"\0")


def _apply(edit: bytes, folder: Path) -> None:
    """Change one file of a run: bytes, its end, or its lines."""
    _, file, kind, high, low, count, value = edit
    path = folder / FILES[file % len(FILES)]
    if not path.exists():
        return
    content = path.read_bytes()
    at = int((high * 256 + low) / 65536 * len(content)) if high else low % max(len(content), 1)
    changed = (
        content[:at] + bytes([value]) + content[at + 1 :],
        content[:at] + bytes([content[at] ^ 1 << value % 8 if content else 0]) + content[at + 1 :],
        content[:at],
        content[:at] + content[at + count :],
        content[:at] + content[max(0, at - count) :],
        _lines(content, count, value),
    )[kind % 6]
    path.write_bytes(changed)


def _lines(content: bytes, one: int, other: int) -> bytes:
    """Two lines that change places, or one that is dropped where they are the same."""
    lines = content.splitlines(keepends=True)
    if len(lines) < 2:
        return content
    a, b = one % len(lines), other % len(lines)
    if a == b:
        del lines[a]
    else:
        lines[a], lines[b] = lines[b], lines[a]
    return b"".join(lines)
