"""What one cell of an experiment works on: examples, settings, gold, and labels of every source."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.evaluation.baselines import (
    balanced_bootstrapping,
    bootstrapped_labels,
    initial_labels,
    perturbed_labels,
    random_shot_labels,
)
from icm_fast.evaluation.gold import held_out, load_gold
from icm_fast.evaluation.metrics import agreement
from icm_fast.evaluation.prompt_formats import HHH_FILE
from icm_fast.experiments.experiment import Column
from icm_fast.files.fields import read_text
from icm_fast.scoring.elsewhere import ModelElsewhere
from icm_fast.scoring.servers.lazy import ServedModel
from icm_fast.tasks.annotators import annotator_labels
from icm_fast.types import UNLABELLED, Dataset, IntArray

if TYPE_CHECKING:
    from icm_fast.scoring.models import Opened


class CellData:
    """Data of one column and seed, read when first used.

    Args:
        column: What is labelled.
        seed: Of data, search and test examples.
        model: The column's model.
        data: Folder of the data files.
        chat_model: Its model for prompts in a chat template; the same by default.
    """

    def __init__(
        self,
        column: Column,
        seed: int,
        model: Opened,
        data: Path | None,
        chat_model: Opened | None = None,
    ) -> None:
        self.column = column
        self.seed = seed
        self.model = model
        self.chat_model = chat_model or model
        self.source = column.source(seed, data)
        self._folder = data

    @property
    def n_parameters(self) -> int:
        """Parameters of the model, tied ones once; 0 where a server does not say."""
        loaded = self.model.load()
        if isinstance(loaded, ServedModel):
            return loaded.client.facts.n_parameters
        if isinstance(loaded, ModelElsewhere):
            return loaded.n_parameters
        return sum(p.numel() for p in loaded.model.parameters())

    @cached_property
    def dataset(self) -> Dataset:
        """The examples to label, without gold."""
        dataset = self.source.load_dataset()
        return dataset if self.column.constraints else replace(dataset, constraints=())

    @cached_property
    def config(self) -> SearchConfig:
        """Settings of the search; with a ``start`` of the column they hold labels from gold."""
        start = self.column.start
        if start is None:
            return self.column.config(self.seed)
        n_labels = len(self.dataset.label_space)
        labels = initial_labels(start, self.gold, n_labels, self.column.n_start, self.seed)
        return self.column.config(self.seed, start="given", initial_labels=labels.tolist())

    @property
    def scoring(self) -> SearchConfig:
        """Settings that scores outside the search depend on."""
        return replace(self.column.config(self.seed), context_order="tree")

    @cached_property
    def gold(self) -> IntArray:
        """Gold of the examples, ``[n]``.

        Raises:
            InputError: There is none.
        """
        gold = load_gold(self.source, self.dataset)
        if (gold == UNLABELLED).all():
            raise InputError(
                f"task {self.column.task!r} has no gold labels to compare with; add a label column"
            )
        return gold

    @cached_property
    def has_annotators(self) -> bool:
        """Whether the data hold labels of single annotators."""
        return bool((annotator_labels(self.source, self.dataset) != UNLABELLED).any())

    @cached_property
    def hhh_prompt(self) -> str | None:
        """The paper's HHH prompt, where the user put it into the folder of the data."""
        path = self._folder and self._folder / HHH_FILE
        if not path or not path.is_file():
            return None
        return read_text(path, "save it as UTF-8 text").rstrip()

    @cached_property
    def test(self) -> tuple[Dataset, IntArray]:
        """Held-out examples and their gold."""
        return held_out(self.source, self.dataset, self.column.n_test)

    def labels(self, source: str, found: IntArray) -> IntArray:
        """Labels of the examples, ``[n]``.

        Args:
            source: See ``labels`` of :class:`icm_fast.experiments.methods.Method`.
            found: Labels that the search found.
        """
        if source == "icm":
            return found
        if source == "golden":
            return self.gold
        if source == "crowd":
            return annotator_labels(self.source, self.dataset)
        if source == "perturbed":
            # A search may leave examples unlabelled; compare with as many gold labels.
            gold = np.where(found == UNLABELLED, UNLABELLED, self.gold).astype(np.int32)
            if (gold == UNLABELLED).all():
                return gold
            share = agreement(found, gold)
            return perturbed_labels(gold, share, len(self.dataset.label_space), self.seed)
        model = self.model.load()
        if source == "random-shots":
            return random_shot_labels(self.dataset, model, self.scoring).labels
        if source == "balanced-bootstrapping":
            return balanced_bootstrapping(self.dataset, model, self.scoring).labels
        return bootstrapped_labels(self.dataset, model, self.scoring)
