"""The folder of a labelling: what it is of, its cores, the scores of all rows, its summary.

    labelling.json   the question, the model and the data that all scores depend on
    settings.json    where the table is, the question and the settings of the last call
    cores/           one run folder for each searched core
    views/           scores of all rows, one file for each context
    decision.npz     label, confidence, probabilities and votes of each row
    summary.json     what was found; written last

Names of cores and views are digests of what they depend on: settings may change from call to call,
and what is there already and still fits is used again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from icm_fast.errors import InputError
from icm_fast.files import is_file, lock_folder, refuse_links, write_atomically, writing
from icm_fast.files.fields import Fields, read_object
from icm_fast.identity import as_stored, check_same

LABELLING_FILE = "labelling.json"
SETTINGS_FILE = "settings.json"
SUMMARY_FILE = "summary.json"
DECISION_FILE = "decision.npz"
CORES, _VIEWS = "cores", "views"
_FIX = "delete the folder to label again, or choose another one"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class LabellingFolder:
    """An open folder, locked for this process."""

    path: Path

    @property
    def views(self) -> Path:
        """Folder of the scores of all rows."""
        return self.path / _VIEWS

    def core(self, digest: str) -> Path:
        """Run folder of a core."""
        return self.path / CORES / digest[:16]

    def stored_template(self, first: Mapping[str, object]) -> str | None:
        """The template that an earlier call chose; None in a new folder.

        Args:
            first: What must be the same as in the folder before a template is known.

        Raises:
            InputError: The folder belongs to another labelling.
        """
        content = self._stored()
        if content is None:
            return None
        template = content.text("template")
        stored = {key: content.content.get(key) for key in first}
        check_same(self.path, stored, as_stored(first), "labelling")
        return template

    def keep_identity(self, identity: Mapping[str, object]) -> None:
        """Record what all scores depend on, or compare it with what is recorded.

        Raises:
            InputError: The folder belongs to another labelling.
        """
        wanted = as_stored(identity)
        content = self._stored()
        if content is None:
            self._write(LABELLING_FILE, {"format": FORMAT, **wanted})
            return
        stored = {key: value for key, value in content.content.items() if key != "format"}
        check_same(self.path, stored, wanted, "labelling")

    def write_settings(self, settings: Mapping[str, object]) -> None:
        """Record the settings of this call."""
        self._write(SETTINGS_FILE, settings)

    def write_decision(self, content: bytes) -> None:
        """Record the labels of all rows; see :mod:`icm_fast.labelling.stored`."""
        write_atomically(self.path / DECISION_FILE, content)

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Record what was found; its presence marks a finished labelling."""
        self._write(SUMMARY_FILE, summary)

    def _stored(self) -> Fields | None:
        path = self.path / LABELLING_FILE
        if not is_file(path):
            return None
        content = read_object(path, _FIX)
        if content.integer("format") != FORMAT:
            raise InputError(f"{path} was written by another version of icm_fast; {_FIX}")
        return content

    def _write(self, name: str, content: Mapping[str, object]) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.path / name, text.encode())


@contextmanager
def open_labelling(path: Path) -> Iterator[LabellingFolder]:
    """Create or open a folder and hold its lock.

    Raises:
        InputError: Another process holds it, it holds other files, or it cannot be written.
    """
    _refuse_foreign(path)
    lock = lock_folder(path)
    try:
        for name in (CORES, _VIEWS):
            with writing(path / name):
                (path / name).mkdir(exist_ok=True)
            refuse_links(path / name)
        yield LabellingFolder(path)
    finally:
        os.close(lock)


def _refuse_foreign(path: Path) -> None:
    """Refuse a folder that has files but is not one of a labelling, such as a home."""
    if not path.is_dir() or (path / LABELLING_FILE).exists():
        return
    found = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    if any(name not in (CORES, _VIEWS) for name in found):
        raise InputError(
            f"{path} holds other files ({found[0]}), but no labelling; choose an empty folder"
        )
