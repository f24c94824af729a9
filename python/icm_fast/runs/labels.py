"""labels.jsonl: the labels of a run with their log-probabilities, margins and confidence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from icm_fast.errors import InputError
from icm_fast.files.fields import Fields, read_object_lines
from icm_fast.runs.store import LABELS_FILE, RUN_AGAIN
from icm_fast.types import UNLABELLED, Dataset, FloatArray, IntArray, LabelSpace, ScoreArray

_CONFIDENCE = "confidence"
_LARGEST_SCORE = 1e30
"""Far beyond any log-probability, and within float32."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredLabels:
    """The content of labels.jsonl.

    Attributes:
        labels: ``[n]`` int32, -1 where unlabelled.
        scores: ``[n, n_labels]`` float32.
        margins: Margin of each label; None where unlabelled.
        confidence: ``[n]`` probability of each label, 0 where unlabelled; None where the search
            gave none.
    """

    labels: IntArray
    scores: ScoreArray
    margins: tuple[float | None, ...]
    confidence: FloatArray | None = None


def read_labels(folder: Path, dataset: Dataset) -> IntArray:
    """Labels of a finished run of ``dataset``, or of a run by batches, ``[n]`` int32.

    Raises:
        InputError: The file is missing or damaged, or has the labels of other examples.
    """
    lines = _lines_of(folder, dataset)
    return np.array([_label(line, dataset.label_space) for line in lines], dtype=np.int32)


def read_results(folder: Path, dataset: Dataset) -> StoredLabels:
    """Everything that labels.jsonl of a finished run holds.

    Raises:
        InputError: The file is missing or damaged, or has the labels of other examples.
    """
    lines = _lines_of(folder, dataset)
    labels = [_label(line, dataset.label_space) for line in lines]
    scores = [line.numbers("logprobs", len(dataset.label_space)) for line in lines]
    for line in lines:
        if max(map(abs, line.numbers("logprobs"))) > _LARGEST_SCORE:
            raise line.wrong("logprobs", f"numbers within {_LARGEST_SCORE:g}")
    return StoredLabels(
        labels=np.array(labels, dtype=np.int32),
        scores=np.array(scores, dtype=np.float32),
        margins=tuple(_margin(line, label) for line, label in zip(lines, labels, strict=True)),
        confidence=_confidence(lines, labels),
    )


def _confidence(lines: list[Fields], labels: list[int]) -> FloatArray | None:
    """The confidence of all labels, 0 where unlabelled; None if no line has one."""
    if not any(_CONFIDENCE in line for line in lines):
        return None
    found = np.zeros(len(lines))
    for k, (line, label) in enumerate(zip(lines, labels, strict=True)):
        if (_CONFIDENCE in line) != (label != UNLABELLED):
            raise line.wrong(_CONFIDENCE, "a number for a label, null without one")
        if label != UNLABELLED:
            found[k] = line.number(_CONFIDENCE, 0.0, 1.0)
    return found


def _lines_of(folder: Path, dataset: Dataset) -> list[Fields]:
    """One line for each example, in the order of the data."""
    path = folder / LABELS_FILE
    lines = read_object_lines(path, RUN_AGAIN)
    if len(lines) != len(dataset):
        raise InputError(f"{path} has {len(lines)} lines for {len(dataset)} examples; {RUN_AGAIN}")
    for line, example in zip(lines, dataset.examples, strict=True):
        if line.text("id") != example.id:
            raise line.wrong("id", f"{example.id!r} as in the data")
    return lines


def _label(line: Fields, names: LabelSpace) -> int:
    index = line.integer("label_index", UNLABELLED, len(names) - 1)
    name = None if index == UNLABELLED else names[index]
    if line.optional_text("label") != name:
        raise line.wrong("label", f"{name!r}, the label of index {index}")
    return index


def _margin(line: Fields, label: int) -> float | None:
    found = line.optional_number("margin")
    if (found is None) != (label == UNLABELLED):
        raise line.wrong("margin", "a number for a label, null without one")
    return found


def labels_lines(
    dataset: Dataset,
    labels: IntArray,
    scores: ScoreArray,
    confidence: FloatArray | None = None,
) -> bytes:
    """Content of labels.jsonl: id, label, its index, log-probabilities, margin, confidence.

    Args:
        dataset: The examples and the label space.
        labels: ``[n]``, -1 where unlabelled.
        scores: ``[n, n_labels]`` float32 log-probabilities.
        confidence: ``[n]``; left out when absent.
    """
    lines = []
    sure = [None] * len(labels) if confidence is None else confidence.tolist()
    for example, label, row, probability in zip(
        dataset.examples, labels, scores, sure, strict=True
    ):
        line: dict[str, object] = {
            "id": example.id,
            "label": dataset.label_space[int(label)] if label != UNLABELLED else None,
            "label_index": int(label),
            # The shortest decimal that reads back as the same float32.
            "logprobs": [float(str(value)) for value in row],
            "margin": margin(row, int(label)),
        }
        if probability is not None:
            line[_CONFIDENCE] = round(probability, 4) if label != UNLABELLED else None
        lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    return "".join(lines).encode()


def margin(row: ScoreArray, label: int) -> float | None:
    """Log-probability of ``label`` minus that of the best other one; None where unlabelled."""
    if label == UNLABELLED:
        return None
    return float(str(np.float32(row[label] - np.delete(row, label).max())))
