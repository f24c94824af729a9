"""Uncertain rows go to review tools, and their answers come back."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from icm_fast import InputError
from icm_fast.labelling import LabelTask
from icm_fast.labelling.evidence import Decision
from icm_fast.labelling.review import (
    REVIEW_FORMATS,
    corrected_table,
    read_corrections,
    uncertain_rows,
)
from icm_fast.labelling.scan import scan_table
from icm_fast.labelling.tables import ListTable

TASK = LabelTask(text="t", labels=("no", "yes, please"), template="{t}:")
TABLE = ListTable([{"t": f"text {i}, ü"} for i in range(6)])


def decision():
    confidence = np.array([0.9, 0.6, 0.55, 0.8, 0.5, 0.52])
    labels = np.array([0, 1, -1, 0, 1, 0], np.int32)
    decided_by = np.array([1, 2, 3, 2, 0, 2], np.int8)
    probabilities = np.stack([confidence, 1 - confidence], axis=1).astype(np.float32)
    shares = np.array([0.5, 0.5])
    votes = np.ones(6, np.int32)
    return Decision(labels, confidence, probabilities, decided_by, votes, 3, shares)


ROWS = uncertain_rows(TABLE, TASK, decision(), 3)


def test_the_least_certain_rows_that_are_not_known():
    assert [row.number for row in ROWS] == [5, 2, 1]
    assert [row.label for row in ROWS] == ["no", None, "yes, please"]
    assert [row.decided_by for row in ROWS] == ["prediction", "abstained", "prediction"]
    assert ROWS[0].text == "text 5, ü"
    assert ROWS[0].probabilities == {"no": 0.52, "yes, please": 0.48}
    assert len(uncertain_rows(TABLE, TASK, decision(), 100)) == 5


def test_a_comparison_shows_the_question_and_both_texts():
    task = LabelTask(compare=("a", "b"), text="q")
    table = ListTable([{"q": "why", "a": "x", "b": "y"}] * 6)
    (row,) = uncertain_rows(table, task.with_template(task.templates()[0]), decision(), 1)
    assert row.text == "why\n\nx\n\ny"


def reviewed(format, content):
    """What a person made of a file: row 5 and row 2 are "yes, please", row 1 was skipped."""
    if format == "cleanlab":
        rows = list(csv.DictReader(io.StringIO(content, newline="")))
        for row in rows:
            row["label"] = {"5": "yes, please", "2": "yes, please", "1": ""}[row["row"]]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        return "answers.csv", text.getvalue()
    if format == "argilla":
        records = [json.loads(line) for line in content.splitlines()]
        for record in records:
            status = "discarded" if record["id"] == "1" else "submitted"
            record["responses"] = {"label": [{"value": "yes, please", "status": status}]}
        return "answers.jsonl", "".join(json.dumps(record) + "\n" for record in records)
    tasks = json.loads(content)
    for task in tasks:
        choice = {"type": "choices", "value": {"choices": ["yes, please"]}}
        skipped = task["data"]["row"] == 1
        task["annotations"] = [{"result": [choice], "was_cancelled": skipped}]
    return "answers.json", json.dumps(tasks)


@pytest.mark.parametrize("format", REVIEW_FORMATS)
def test_answers_come_back_from_every_format(tmp_path, format):
    name, content = reviewed(format, REVIEW_FORMATS[format](ROWS, TASK).decode())
    (tmp_path / name).write_text(content)
    assert read_corrections(tmp_path / name, TASK) == {5: 1, 2: 1}
    table, task = corrected_table(TABLE, TASK, tmp_path / name)
    assert scan_table(table, task).known.tolist() == [-1, -1, 1, -1, -1, 1]
    assert task.labels == TASK.labels


@pytest.mark.parametrize("format", REVIEW_FORMATS)
def test_a_file_without_answers_says_so(tmp_path, format):
    rows = [row for row in ROWS if row.label is None] if format == "cleanlab" else ROWS
    content = REVIEW_FORMATS[format](rows, TASK)
    path = tmp_path / ("a.csv" if format == "cleanlab" else "a.jsonl")
    if format == "label-studio":
        tasks = [task | {"annotations": []} for task in json.loads(content)]
        content = json.dumps(tasks).encode()
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no answers; review some rows first"):
        read_corrections(path, TASK)


def test_predictions_of_label_studio_are_suggestions_and_no_answers():
    (first, second, _) = json.loads(REVIEW_FORMATS["label-studio"](ROWS, TASK))
    assert first["predictions"][0]["result"][0]["value"] == {"choices": ["no"]}
    assert second["predictions"] == []
    assert "annotations" not in first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("row,label\n1,maybe\n", "line 2: gold 'maybe' is not a label"),
        ("row,label\nx,no\n", "line 2: 'x' is not the number of a row"),
        ('row,label\n1,no\n1,"yes, please"\n', "row 1 is 'no' above and 'yes, please' here"),
        ("number,label\n1,no\n", "no columns row"),
        ("row,label\n-1,no\n", "'-1' is not the number of a row"),
    ],
)
def test_answers_that_cannot_be_used_name_the_line(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_corrections(tmp_path / "a.csv", TASK)


def test_a_correction_of_a_row_that_is_not_there(tmp_path):
    (tmp_path / "a.csv").write_text("row,label\n6,no\n")
    table, task = corrected_table(TABLE, TASK, tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"names row 6, but data has 6 rows \(from 0\)"):
        scan_table(table, task)


def test_corrections_replace_known_labels_and_leave_others(tmp_path):
    (tmp_path / "a.csv").write_text("row,label\n1,no\n")
    data = ListTable([{"t": "x", "k": "yes, please"}, {"t": "y", "k": "yes, please"}, {"t": "z"}])
    table, task = corrected_table(data, TASK.with_known("k"), tmp_path / "a.csv")
    assert scan_table(table, task).known.tolist() == [1, 0, -1]
