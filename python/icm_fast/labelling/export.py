"""Files made of a finished labelling: uncertain rows for review, and preferences for training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from icm_fast.errors import InputError, shown, suggest
from icm_fast.export.preferences import Preference
from icm_fast.export.training_data import preference_messages, preference_texts
from icm_fast.files import expanded, json_lines, write_output
from icm_fast.labelling.review import REVIEW_FORMATS, REVIEW_SUFFIXES, uncertain_rows
from icm_fast.labelling.stored import StoredLabelling, read_labelling

PREFERENCE_FORMATS = {"trl-preference": preference_texts, "dpo": preference_messages}
FORMATS = (*REVIEW_FORMATS, *PREFERENCE_FORMATS)
DEFAULT_ROWS = 100
"""Rows for review where no number is given."""


def export_labelling(
    folder: str | os.PathLike[str],
    format: str,
    path: str | os.PathLike[str] | None = None,
    *,
    data: object = None,
    n_rows: int = DEFAULT_ROWS,
) -> tuple[Path, int]:
    """Write the least certain rows for a review tool, or the preferences of a comparison.

    Args:
        folder: Folder of a finished labelling.
        format: ``argilla``, ``label-studio`` or ``cleanlab``; of comparisons also
            ``trl-preference`` or ``dpo``.
        path: The file; ``FORMAT`` with its suffix in the folder by default.
        data: The labelled data, where they were in memory; see :func:`icm_fast.label`.
        n_rows: Maximum number of rows for review.

    Returns:
        Where it was written, and how many rows.

    Raises:
        InputError: Unknown format, an unfinished or damaged folder, data that are missing or have
            changed, or a file that cannot be written.
    """
    if format not in FORMATS:
        raise InputError(
            f"a labelling is exported as {', '.join(FORMATS)}, not {shown(format)}"
            f"{suggest(format, FORMATS)}"
        )
    if n_rows < 1:
        raise InputError(f"{n_rows} rows cannot be reviewed; ask for 1 or more")
    folder = expanded(folder)
    stored = read_labelling(folder, data)
    if format in REVIEW_FORMATS:
        rows = uncertain_rows(stored.table, stored.task, stored.decision, n_rows)
        if not rows:
            raise InputError(f"all labels in {folder} are known; there is nothing to review")
        content, n = REVIEW_FORMATS[format](rows, stored.task), len(rows)
    else:
        pairs = list(labelled_preferences(stored))
        content, n = json_lines(map(PREFERENCE_FORMATS[format], pairs)), len(pairs)
    target = folder / f"{format}{REVIEW_SUFFIXES.get(format, '.jsonl')}"
    if path is not None:
        target = expanded(path)
        _refuse_own_files(folder, target)
    write_output(target, content)
    return target, n


def labelled_preferences(stored: StoredLabelling) -> Iterator[Preference]:
    """The better and the worse text of each row that has a label, where the two differ.

    Raises:
        InputError: The labelling is not a comparison.
    """
    task, decision = stored.task, stored.decision
    if task.compare is None:
        raise InputError(
            f"the labelling in {stored.folder} does not compare texts, so it has no preferences; "
            f"export it as {', '.join(REVIEW_FORMATS)}"
        )
    for row in stored.table.rows():
        label = int(decision.labels[row.number])
        if label < 0:
            continue
        chosen, rejected = (row.text(task.compare[k]) for k in (label, 1 - label))
        question = "" if task.text is None else row.text(task.text)
        if chosen != rejected:
            certain = float(decision.confidence[row.number])
            yield Preference(question, chosen, rejected, certain, row.optional(task.group))


def _refuse_own_files(folder: Path, path: Path) -> None:
    """Raise InputError if writing ``path`` would replace a file that the labelling consists of."""
    own = {f"{name}{REVIEW_SUFFIXES.get(name, '.jsonl')}" for name in FORMATS}
    target = path.resolve()
    inside = folder.resolve() in target.parents
    if inside and target.exists() and target.name not in own:
        raise InputError(f"{target.name} is a file of the labelling in {folder}; name another file")
