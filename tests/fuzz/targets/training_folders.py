"""Documents of trainings, pools and experiments."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..target import Target


class TrainingFolders(Target):
    """The first byte picks the document; the rest is the file."""

    name = "training-folders"
    words = tuple(
        f'"{word}": '.encode()
        for word in (
            "identity",
            "losses",
            "seconds",
            "steps",
            "step",
            "pairs",
            "labels",
            "concerns",
        )
    )

    def prepare(self, folder: Path) -> None:
        """Take the documents of the tests."""
        from test_damaged_folders import CASES

        self._cases = list(CASES.values())
        self._home = folder

    def seeds(self) -> list[bytes]:
        """The whole documents."""
        whole = [
            bytes([k]) + json.dumps(content).encode() + b"\n"
            for k, (_, content, _read) in enumerate(self._cases)
        ]
        return super().seeds() + whole

    def read(self, data: bytes) -> None:
        """Read one document."""
        name, _, reader = self._cases[(data or b"\0")[0] % len(self._cases)]
        folder = self._home / "training"
        shutil.rmtree(folder, ignore_errors=True)
        path = folder / name
        path.parent.mkdir(parents=True)
        (folder / "samples.jsonl").write_text('{"step": 1}\n')
        path.write_bytes(data[1:])
        reader(folder)
