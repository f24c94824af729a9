"""The round trip of the uncertain rows: to the files of review tools, and their answers back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from icm_fast.errors import InputError, shown, suggest
from icm_fast.labelling.evidence import DECIDED_BY, Decision
from icm_fast.labelling.tables import Table
from icm_fast.labelling.task import LabelTask
from icm_fast.tasks.gold_values import GoldReader
from icm_fast.tasks.rows import Row, read_rows

CORRECTED = "corrected label"
"""Column in which corrections are known labels."""

_QUESTION = "label"
"""Name of the question in review tools."""


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """A row for review.

    Attributes:
        number: Position in the table.
        text: What the model read, without the words that ask for the label.
        label: The label that was found; None where abstained.
        confidence: Its probability.
        probabilities: Of each label.
        decided_by: See :data:`~icm_fast.labelling.evidence.DECIDED_BY`.
    """

    number: int
    text: str
    label: str | None
    confidence: float
    probabilities: Mapping[str, float]
    decided_by: str


def uncertain_rows(
    table: Table, task: LabelTask, decision: Decision, n_rows: int
) -> list[ReviewRow]:
    """The least certain rows that are not known, least certain first.

    Args:
        table: The rows.
        task: What was asked, with its template.
        decision: What was found.
        n_rows: How many to return at most.
    """
    open_rows = np.flatnonzero(decision.decided_by != DECIDED_BY.index("known"))
    order = open_rows[np.argsort(decision.confidence[open_rows], kind="stable")][:n_rows]
    wanted = set(order.tolist())
    found: dict[int, ReviewRow] = {}
    for row in table.rows():
        if row.number in wanted:
            found[row.number] = _review_row(row, task, decision)
    return [found[number] for number in order.tolist()]


def row_text(row: Row, task: LabelTask) -> str:
    """What the model read of a row, without the words that ask for the label."""
    columns = [*([task.text] if task.text else []), *(task.compare or ())]
    columns = columns or ([task.claim] if task.claim else [])
    texts = [row.text(column) for column in columns] or [task.examples(row)[0].prompt]
    return "\n\n".join(texts)


def _review_row(row: Row, task: LabelTask, decision: Decision) -> ReviewRow:
    index = int(decision.labels[row.number])
    return ReviewRow(
        number=row.number,
        text=row_text(row, task),
        label=task.labels[index] if index >= 0 else None,
        confidence=round(float(decision.confidence[row.number]), 4),
        probabilities={
            name: round(float(p), 4)
            for name, p in zip(task.labels, decision.probabilities[row.number], strict=True)
        },
        decided_by=DECIDED_BY[int(decision.decided_by[row.number])],
    )


def _argilla(rows: Sequence[ReviewRow], task: LabelTask) -> bytes:
    """JSON lines of Argilla 2 records: ``rg.Dataset.from_disk`` and ``records.log`` take them."""
    lines = []
    for row in rows:
        suggestion = {
            "question_name": _QUESTION,
            "value": row.label,
            "score": row.confidence,
            "agent": "icm_fast",
        }
        lines.append(
            {
                "id": str(row.number),
                "fields": {"text": row.text},
                "metadata": {"confidence": row.confidence, "decided_by": row.decided_by},
                "suggestions": [] if row.label is None else [suggestion],
                "responses": {},
            }
        )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def _label_studio(rows: Sequence[ReviewRow], task: LabelTask) -> bytes:
    """Tasks with predictions, for a project whose choices are named ``label`` and read ``text``."""
    tasks = []
    for row in rows:
        result = {
            "from_name": _QUESTION,
            "to_name": "text",
            "type": "choices",
            "value": {"choices": [row.label]},
        }
        prediction = {"model_version": "icm_fast", "score": row.confidence, "result": [result]}
        tasks.append(
            {
                "data": {"text": row.text, "row": row.number, "confidence": row.confidence},
                "predictions": [] if row.label is None else [prediction],
            }
        )
    return (json.dumps(tasks, ensure_ascii=False, indent=1) + "\n").encode()


def _cleanlab(rows: Sequence[ReviewRow], task: LabelTask) -> bytes:
    """CSV with the given label and a column of probabilities for each label."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "text", "label", *(f"pred_probs:{name}" for name in task.labels)])
    for row in rows:
        writer.writerow([row.number, row.text, row.label, *row.probabilities.values()])
    return text.getvalue().encode()


REVIEW_FORMATS: dict[str, Callable[[Sequence[ReviewRow], LabelTask], bytes]] = {
    "argilla": _argilla,
    "label-studio": _label_studio,
    "cleanlab": _cleanlab,
}
REVIEW_SUFFIXES = {"argilla": ".jsonl", "label-studio": ".json", "cleanlab": ".csv"}


def read_corrections(path: Path, task: LabelTask) -> dict[int, int]:
    """Labels of reviewed rows, by position in the table.

    Args:
        path: A table with the columns ``row`` (or ``id``) and ``label``; JSON that Label Studio
            exports; or JSON lines of Argilla records.
        task: Its labels are the only ones that may occur.

    Raises:
        InputError: The file cannot be read, or a row or label of it cannot be used.
    """
    reader = GoldReader(task.labels)
    found: dict[int, int] = {}
    for row in read_rows(path):
        number, value = _answer(row)
        if value is None:
            continue
        label = reader.read(Row(row.number, row.where, {_QUESTION: value}), _QUESTION)
        if found.setdefault(number, label) != label:
            raise InputError(
                f"{row.where}: row {number} is {shown(task.labels[found[number]])} above and "
                f"{shown(task.labels[label])} here; leave one of them"
            )
    if not found:
        raise InputError(f"{path} holds no answers; review some rows first")
    return found


def _answer(row: Row) -> tuple[int, object]:
    """Row number and answer of one record; None where it is not answered."""
    values = row.values
    if isinstance(values.get("annotations"), list) and isinstance(values.get("data"), Mapping):
        return _number(row, values["data"].get("row")), _label_studio_answer(values)  # type: ignore[attr-defined]
    if isinstance(values.get("responses"), (Mapping, list)):
        return _number(row, values.get("id")), _argilla_answer(values["responses"])
    key = next((name for name in ("row", "id") if name in values), None)
    column = _QUESTION if _QUESTION in values else CORRECTED
    if key is None or column not in values:
        raise InputError(
            f"{row.where}: no columns row (or id) and label, and no answers of Argilla or Label "
            f"Studio{suggest('row', list(values))}"
        )
    value = values[column]
    blank = value is None or value != value or not str(value).strip()
    return _number(row, values[key]), None if blank else value


def _label_studio_answer(values: Mapping[str, object]) -> object:
    """The choice of the last annotation that was not cancelled."""
    answer: object = None
    annotations = values["annotations"]
    assert isinstance(annotations, list)
    for annotation in annotations:
        if not isinstance(annotation, Mapping) or annotation.get("was_cancelled"):
            continue
        for result in annotation.get("result") or ():
            choices = (
                (result.get("value") or {}).get("choices") if isinstance(result, Mapping) else None
            )
            if choices:
                answer = choices[0]
    return answer


def _argilla_answer(responses: object) -> object:
    """The last submitted answer to our question."""
    answer: object = None
    given = responses.get(_QUESTION, ()) if isinstance(responses, Mapping) else responses
    for response in given if isinstance(given, (list, tuple)) else ():
        if not isinstance(response, Mapping) or response.get("status", "submitted") != "submitted":
            continue
        if response.get("question_name", _QUESTION) == _QUESTION:
            answer = response.get("value", answer)
    return answer


def _number(row: Row, value: object) -> int:
    text = str(value).strip().removesuffix(".0").removeprefix("row-")
    if isinstance(value, bool) or not text.isdecimal():
        raise InputError(f"{row.where}: {shown(value)} is not the number of a row")
    return int(text)


@dataclass(frozen=True, slots=True)
class CorrectedTable:
    """A table in which reviewed rows have known labels.

    Attributes:
        table: The table.
        corrections: Label texts by row.
        column: Column of the known labels.
    """

    table: Table
    corrections: Mapping[int, str]
    column: str

    @property
    def name(self) -> str:
        """The name of the table."""
        return self.table.name

    def rows(self) -> Iterator[Row]:
        """The rows, reviewed ones with their answers."""
        n_rows = 0
        for row in self.table.rows():
            known = self.corrections.get(row.number, row.values.get(self.column))
            yield replace(row, values={**row.values, self.column: known})
            n_rows += 1
        beyond = [number for number in self.corrections if number >= n_rows]
        if n_rows and beyond:
            raise InputError(
                f"a correction names row {min(beyond)}, but {self.name} has {n_rows} rows (from 0)"
            )

    def with_columns(self, columns: Mapping[str, Sequence[object]]) -> object:
        """The original data with more columns."""
        return self.table.with_columns(columns)


def corrected_table(table: Table, task: LabelTask, path: Path) -> tuple[Table, LabelTask]:
    """A table and a task in which the answers of a review are known labels.

    Args:
        table: The rows.
        task: What is asked; labels that are known already stay, unless they were corrected.
        path: See :func:`read_corrections`.
    """
    answers = {
        row: task.labels[label] for row, label in read_corrections(path, task).items() if label >= 0
    }
    column = task.known or CORRECTED
    return CorrectedTable(table, answers, column), task.with_known(column)
