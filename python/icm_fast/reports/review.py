"""The review of uncertain rows in a browser: which rows, which answers, and the page.

Answers are JSON lines with ``row`` and ``label``, which ``icm-fast label --corrections`` reads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from icm_fast.errors import InputError
from icm_fast.files import is_file, json_lines, write_atomically
from icm_fast.labelling.review import ReviewRow, read_corrections, uncertain_rows
from icm_fast.labelling.stored import StoredLabelling
from icm_fast.labelling.task import LabelTask
from icm_fast.reports.charts import safe, visible
from icm_fast.reports.page import content_hash, data_text, part

ANSWERS_FILE = "corrections.jsonl"
"""Name of the answers in the folder of a labelling."""


class Answers:
    """The answers of a review, on disk as soon as they are given.

    Args:
        path: A file of JSON lines; what it holds already is kept.
        task: Its labels are the answers.

    Raises:
        InputError: The file holds something else, or its name does not end in ``.jsonl``.
    """

    def __init__(self, path: Path, task: LabelTask) -> None:
        if path.suffix != ".jsonl":
            raise InputError(f"answers are JSON lines; name a file that ends in .jsonl, not {path}")
        self.path = path
        self._labels = task.labels
        self._lock = threading.Lock()
        self._found: dict[int, int] = {}
        if is_file(path) and os.path.getsize(path):
            self._found = read_corrections(path, task)

    def __len__(self) -> int:
        return len(self._found)

    def content(self) -> dict[int, int]:
        """Indices of the labels by row."""
        with self._lock:
            return dict(self._found)

    def put(self, row: int, label: int | None) -> None:
        """Store an answer, or take it back; it is on disk when this returns.

        Raises:
            InputError: The file system refuses; the answer then does not count.
        """
        with self._lock:
            found = {key: value for key, value in self._found.items() if key != row}
            if label is not None:
                found[row] = label
            lines = [{"row": key, "label": self._labels[value]} for key, value in found.items()]
            write_atomically(self.path, json_lines(lines))
            self._found = found


class Review:
    """The uncertain rows of a labelling, and what people answer.

    Attributes:
        answers: What was answered so far.
        rows: The rows, least certain first.

    Args:
        stored: The labelling.
        answers: Where answers go.
        n_rows: Maximum number of rows.

    Raises:
        InputError: All labels are known.
    """

    def __init__(self, stored: StoredLabelling, answers: Answers, n_rows: int) -> None:
        if n_rows < 1:
            raise InputError(f"{n_rows} rows cannot be reviewed; ask for 1 or more")
        self._name = stored.table.name
        self._labels = stored.task.labels
        self.answers = answers
        self.rows: Sequence[ReviewRow] = uncertain_rows(
            stored.table, stored.task, stored.decision, n_rows
        )
        if not self.rows:
            raise InputError(f"all labels in {stored.folder} are known; nothing is to review")
        self._numbers = frozenset(row.number for row in self.rows)

    def answer(self, content: object) -> None:
        """Store what a browser sent: ``row``, and the index ``label`` or null to take it back.

        Raises:
            ValueError: It is something else, or names a row that is not reviewed.
            InputError: It cannot be stored.
        """
        if not isinstance(content, Mapping) or set(content) != {"row", "label"}:
            raise ValueError("an answer has a row and a label")
        row, label = content["row"], content["label"]
        if type(row) is not int or row not in self._numbers:
            raise ValueError("no such row is reviewed")
        if label is not None and (type(label) is not int or not 0 <= label < len(self._labels)):
            raise ValueError("there is no such label")
        self.answers.put(row, label)

    def page(self) -> str:
        """The page with all rows and the answers so far."""
        data = {
            "labels": list(map(visible, self._labels)),
            "rows": [self._row(row) for row in self.rows],
            "answers": {str(row): label for row, label in self.answers.content().items()},
        }
        return Template(part("review.html")).substitute(
            title=safe(f"Review of {self._name}"),
            style=_style(),
            script=part("review.js"),
            file=safe(self.answers.path.name),
            data=data_text(data),
        )

    def _row(self, row: ReviewRow) -> dict[str, object]:
        return {
            "number": row.number,
            "text": visible(row.text),
            "label": None if row.label is None else self._labels.index(row.label),
            "confidence": row.confidence,
            "probabilities": list(row.probabilities.values()),
        }


def review_policy() -> str:
    """The content security policy of the page: its own style and script, and answers to us."""
    return (
        f"default-src 'none'; style-src '{content_hash(_style())}'; "
        f"script-src '{content_hash(part('review.js'))}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _style() -> str:
    return part("page.css") + part("review.css")
