"""labels.jsonl: the labels of a run with their log-probabilities and margins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from icm_fast.errors import InputError
from icm_fast.files import reading
from icm_fast.runs.store import LABELS_FILE
from icm_fast.types import UNLABELLED, Dataset, IntArray, ScoreArray

RUN_AGAIN = "run the search again with the same settings and folder; it resumes where it stopped"
"""The fix of an unfinished or damaged run folder."""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file of a run folder, one per line.

    Raises:
        InputError: The file is missing or corrupt.
    """
    with reading(path, RUN_AGAIN):
        lines = path.read_text(encoding="utf-8").split("\n")
    try:
        return [json.loads(line) for line in lines if line]
    except ValueError as error:
        raise InputError(f"{path} is corrupt; {RUN_AGAIN}") from error


def read_labels(folder: Path) -> IntArray:
    """Labels of a finished run, or of a run by batches, ``[n]`` int32.

    Raises:
        InputError: The file is missing or corrupt.
    """
    lines = read_lines(folder / LABELS_FILE)
    return np.array([line["label_index"] for line in lines], dtype=np.int32)


def labels_lines(dataset: Dataset, labels: IntArray, scores: ScoreArray) -> bytes:
    """Content of labels.jsonl: id, label, its index, log-probabilities, margin.

    Args:
        dataset: The examples and the label space.
        labels: ``[n]``, -1 where unlabelled.
        scores: ``[n, n_labels]`` float32 log-probabilities.
    """
    lines = []
    for example, label, row in zip(dataset.examples, labels, scores, strict=True):
        line = {
            "id": example.id,
            "label": dataset.label_space[int(label)] if label != UNLABELLED else None,
            "label_index": int(label),
            # The shortest decimal that reads back as the same float32.
            "logprobs": [float(str(value)) for value in row],
            "margin": margin(row, int(label)),
        }
        lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    return "".join(lines).encode()


def margin(row: ScoreArray, label: int) -> float | None:
    """Log-probability of ``label`` minus that of the best other one; None where unlabelled."""
    if label == UNLABELLED:
        return None
    return float(str(np.float32(row[label] - np.delete(row, label).max())))
