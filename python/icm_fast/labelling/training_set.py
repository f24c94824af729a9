"""A finished labelling as examples with labels, for a training on them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from icm_fast.errors import InputError
from icm_fast.labelling.folder import CORES
from icm_fast.labelling.stored import read_labelling
from icm_fast.runs.config import read_config
from icm_fast.runs.store import CONFIG_FILE
from icm_fast.types import Dataset, FloatArray, IntArray, LabelSpace


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The prompts of a labelling with their labels.

    Attributes:
        dataset: The prompts of all rows, two for each comparison.
        labels: ``[n]`` int32; -1 where a row was left without a label.
        confidence: ``[n]`` probability of each label.
        model: Name of the model that found them; None where no core says it.
    """

    dataset: Dataset
    labels: IntArray
    confidence: FloatArray
    model: str | None


def training_set(folder: Path, data: object = None) -> TrainingSet:
    """The rows of a finished labelling, in memory, with the labels that were decided.

    Args:
        folder: Its folder.
        data: The table, where it did not come from a file; see :func:`icm_fast.label`.

    Raises:
        InputError: The folder is not one of a finished labelling, its table has changed, or no row
            has a label.
    """
    stored = read_labelling(folder, data)
    task, decided = stored.task, stored.decision.labels.tolist()
    if all(label < 0 for label in decided):
        raise InputError(f"no row of {folder} has a label; label it with a smaller --abstain")
    examples = tuple(example for row in stored.table.rows() for example in task.examples(row))
    labels = [item for label in decided for item in task.item_labels(label)]
    space = LabelSpace(task.model_labels([example.prompt for example in examples]))
    dataset = task.dataset(examples, space)
    confidence = stored.decision.confidence.astype(np.float64)
    return TrainingSet(
        dataset,
        np.array(labels, np.int32),
        np.repeat(confidence, len(labels) // len(decided)),
        labelling_model(folder),
    )


def labelling_model(folder: Path) -> str | None:
    """The model's name, which the searched cores of a labelling record; None where none does."""
    for path in sorted((folder / CORES).glob(f"*/{CONFIG_FILE}")):
        with suppress(InputError):
            return str(read_config(path)["model"])
    return None
