"""Iterative fine-tuning: each batch is labelled by the model tuned on the batches before it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from icm_fast import distributed
from icm_fast.config import SearchConfig
from icm_fast.engine.progress import Quiet
from icm_fast.engine.result import SearchResult
from icm_fast.engine.search import search
from icm_fast.errors import InputError
from icm_fast.files import json_lines, write_atomically
from icm_fast.model.load import load_model
from icm_fast.model.loaded import LoadedModel, ModelSpec
from icm_fast.runs.store import LABELS_FILE
from icm_fast.tasks.source import TaskSource
from icm_fast.tracking import TrackLike, part_of
from icm_fast.training.batches import connected_groups
from icm_fast.training.config import TuningConfig
from icm_fast.training.sft.train import Tuned, fine_tune
from icm_fast.types import UNLABELLED, Dataset, IntArray, Reporter

if TYPE_CHECKING:
    from transformers import TrainerCallback

IndexArray = npt.NDArray[np.int64]
"""Rows of a data set, ascending."""


@dataclass(frozen=True, slots=True, eq=False)
class IterativeResult:
    """What iterative fine-tuning gives.

    Attributes:
        labels: ``[n]`` int32, -1 where a search left an example unlabelled.
        batches: Rows of each batch.
        searches: The search of each batch.
        tuned: The base, tuned on the labels of all batches.
    """

    labels: IntArray
    batches: tuple[IndexArray, ...]
    searches: tuple[SearchResult, ...]
    tuned: Tuned

    @property
    def model(self) -> LoadedModel:
        """The tuned model."""
        return self.tuned.model


def split_batches(dataset: Dataset, size: int, seed: int) -> list[IndexArray]:
    """Split a data set into batches of whole groups; constraints never leave a batch.

    Args:
        dataset: Examples of one group, and those that a constraint joins, stay together.
        size: Maximum number of examples in a batch.
        seed: Seed of the order in which groups are dealt.

    Returns:
        Disjoint, ascending rows that together are the whole data set; batches are about equally
        large, and no more of them than needed where groups are small.

    Raises:
        InputError: A group is larger than ``size``.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"the batch size must be an integer of 1 or more, got {size!r}")
    groups = _groups(dataset)
    largest = max(groups, key=len)
    if len(largest) > size:
        raise InputError(
            f"the group of example {dataset.examples[largest[0]].id!r} has {len(largest)} "
            f"examples, but the batch size is {size}; raise it"
        )
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(groups))
    n_batches = -(-len(dataset) // size)
    while True:
        batches = _deal([groups[int(k)] for k in order], n_batches, size)
        if batches is not None:
            return [np.array(sorted(rows), np.int64) for rows in batches if rows]
        n_batches += 1


def iterate(
    dataset: Dataset,
    *,
    model: ModelSpec,
    batch_size: int,
    search_config: SearchConfig | None = None,
    tuning_config: TuningConfig | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    progress: Reporter | None = None,
    source: TaskSource | None = None,
    track: TrackLike = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> IterativeResult:
    """Label a data set batch by batch, tuning the base on all labels found so far in between.

    Args:
        dataset: Examples, label space and constraints; never gold labels.
        model: What :func:`icm_fast.training.sft.train` takes; its weights are not changed.
        batch_size: Maximum number of examples in one search.
        search_config: Settings of every search; its seed deals the batches too.
        tuning_config: Settings of every fine-tuning.
        output_dir: Holds ``batch-000/search``, ``batch-000/tuning`` and so on; what was
            interrupted there is resumed, what is finished is read. At the end ``labels.jsonl`` has
            the labels of all batches: id, label, its index, batch.
        progress: Says what is done next, and shows the searches and trainings.
        source: Where the data came from; recorded in the run folders.
        track: Same as in ``search``, for every search and every fine-tuning.
        callbacks: Same as in ``fine_tune``.

    Raises:
        InputError: Same as in ``search``, ``fine_tune`` and :func:`split_batches`.
    """
    _check_alone()
    search_config = search_config or SearchConfig()
    batches = split_batches(dataset, batch_size, search_config.seed)
    base = load_model(
        model,
        dtype=search_config.dtype,
        device=search_config.device,
        quantization=(tuning_config or TuningConfig()).quantization,
    )
    current, searches = base, []
    labels = np.full(len(dataset), UNLABELLED, np.int32)
    confidence = np.zeros(len(dataset))
    with progress or Quiet() as shown:
        for number, rows in enumerate(batches):
            name = f"batch-{number + 1}"
            heading = f"batch {number + 1} of {len(batches)}"
            shown.say(f"{heading}: labelling {len(rows)} examples")
            found = search(
                dataset.subset(rows.tolist()),
                model=current,
                config=search_config,
                output_dir=_folder(output_dir, number, "search"),
                progress=shown,
                source=source,
                track=part_of(track, name),
            )
            labels[rows] = found.labels
            confidence[rows] = np.nan if found.confidence is None else found.confidence
            searches.append(found)
            shown.say(f"{heading}: tuning on {(labels >= 0).sum()} labels")
            output = _folder(output_dir, number, "tuning")
            tuned = fine_tune(
                dataset,
                labels,
                model=base,
                config=tuning_config,
                confidence=confidence,
                output_dir=output,
                progress=shown,
                track=part_of(track, name),
                callbacks=callbacks,
            )
            current = tuned.model
    if output_dir:
        write_atomically(Path(output_dir) / LABELS_FILE, _rows(dataset, labels, batches))
    return IterativeResult(labels, tuple(batches), tuple(searches), tuned)


def _check_alone() -> None:
    if distributed.world_size() > 1:
        raise InputError(
            "labelling batch by batch runs in one process; start it without accelerate launch or "
            "torchrun"
        )


def _folder(output_dir: str | os.PathLike[str] | None, number: int, part: str) -> Path | None:
    """Where a search or a fine-tuning of a batch is kept."""
    return Path(output_dir) / f"batch-{number:03d}" / part if output_dir else None


def _rows(dataset: Dataset, labels: IntArray, batches: Sequence[IndexArray]) -> bytes:
    batch_of = {int(row): number for number, rows in enumerate(batches) for row in rows}
    lines = [
        {
            "id": example.id,
            "label": None if y == UNLABELLED else dataset.label_space[int(y)],
            "label_index": int(y),
            "batch": batch_of[row],
        }
        for row, (example, y) in enumerate(zip(dataset.examples, labels, strict=True))
    ]
    return json_lines(lines)


def _groups(dataset: Dataset) -> list[list[int]]:
    """Rows that have to stay together, each list ascending, in the order of their first rows."""
    groups: dict[int, list[int]] = {}
    for row, leader in enumerate(connected_groups(dataset)):
        groups.setdefault(leader, []).append(row)
    return list(groups.values())


def _deal(groups: list[list[int]], n_batches: int, size: int) -> list[list[int]] | None:
    """Give each group, the largest first, to the emptiest batch; None if one would overflow."""
    batches: list[list[int]] = [[] for _ in range(n_batches)]
    for group in sorted(groups, key=len, reverse=True):
        emptiest = min(batches, key=len)
        if len(emptiest) + len(group) > size:
            return None
        emptiest += group
    return batches
