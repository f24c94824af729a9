"""An experiment and its columns, as a definition describes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from icm_fast.config import SearchConfig
from icm_fast.tasks.registry import preset_options
from icm_fast.tasks.source import TaskSource
from icm_fast.training.config import TuningConfig

FIGURES = ("bars", "lines")
STARTS = ("golden", "worst", "random")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What one search labels and what is done with the labels: one place on the figure's axis.

    Attributes:
        name: Shown in the figure and the table; ``{model}`` in it becomes ``model_title``.
        task: Name of the task.
        model: Hub id, folder, .gguf file or embedded name.
        model_title: Short name of the model; the last part of ``model`` by default.
        chat_model: The model of the method ``zero-shot-chat``; the column's own by default.
        data: The task's data file in the folder of ``--data``; None if it needs none.
        n: Examples to label.
        batch_size: Maximum number of examples per search; before each search the model is tuned on
            the labels found so far (:func:`icm_fast.training.sft.iterate`). None: one search labels
            all.
        n_test: Held-out examples.
        x: Place on a numeric axis (figure ``lines``); ``parameters``: millions of parameters of the
            model.
        options: Options of the task, beside those that go with the preset of the search.
        settings: Settings of the search.
        constraints: Whether the search knows the task's constraints.
        start: Labels that the search begins with, from gold: ``golden``, ``worst`` or ``random``.
        n_start: How many.
        n_orders: Random orders of the contexts under which the found labels are scored again.
        methods: Methods instead of the experiment's.
        tuning: Settings of fine-tuning.
    """

    name: str
    task: str
    model: str
    model_title: str = ""
    chat_model: str | None = None
    data: str | None = None
    n: int = 64
    batch_size: int | None = None
    n_test: int = 100
    x: float | str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    constraints: bool = True
    start: str | None = None
    n_start: int = 8
    n_orders: int = 0
    methods: tuple[str, ...] = ()
    tuning: Mapping[str, object] = field(default_factory=dict)

    def source(self, seed: int, data: Path | None) -> TaskSource:
        """Where the examples come from; ``data`` is the folder of the data files."""
        file = None if self.data is None or data is None else str(data / self.data)
        options = {**preset_options(self.task, self.config(seed).preset), **self.options}
        return TaskSource(self.task, file, limit=self.n, seed=seed, options=options)

    def config(self, seed: int, **changes: object) -> SearchConfig:
        """Settings of the search.

        Args:
            seed: Seed of the search.
            changes: What the cell says of them; the preset sees it, too, since what it leaves open
                may depend on that.

        Raises:
            InputError: Unknown or bad settings.
        """
        return SearchConfig.from_mapping({**self.settings, "seed": seed, **changes})

    def tuning_config(self, seed: int) -> TuningConfig:
        """Settings of fine-tuning.

        Raises:
            InputError: Unknown or bad settings.
        """
        return TuningConfig.from_mapping({"seed": seed, **self.tuning})

    def digest(self) -> str:
        """Short hash of the settings that decide results; names the folder of the column's cells.

        The content of data and model is not part of it; a cell's identity holds that.
        """
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("name", "model_title", "x", "methods", "n_orders"):
            del content[name]
        for name in ("chat_model", "batch_size"):
            if content[name] is None:
                del content[name]
        text = json.dumps(content, sort_keys=True, default=dict)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One experiment at one size.

    Attributes:
        name: Name of its file.
        suite: Name of the size.
        title: Headline of the figure.
        source: The table or figure of the paper that it repeats, or "ours".
        figure: ``bars`` (a panel of methods per column) or ``lines`` (methods over ``x``).
        x_label: Label of the axis of ``lines``.
        log_x: Whether that axis is logarithmic.
        seeds: Each is another draw of data, search and test examples.
        methods: Names of methods, in the order shown.
        columns: What is labelled.
        note: What a reader should know.
        variant: Name of a run with other models, other seeds or fewer columns; empty for the
            unchanged suite.
    """

    name: str
    suite: str
    title: str
    source: str
    figure: str
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    columns: tuple[Column, ...]
    x_label: str = ""
    log_x: bool = False
    note: str = ""
    variant: str = ""

    def with_settings(self, settings: Mapping[str, str | None]) -> Experiment:
        """The same, with other settings of the searches of all columns; None changes nothing."""
        given = {name: value for name, value in settings.items() if value is not None}
        columns = tuple(
            replace(column, settings={**column.settings, **given}) for column in self.columns
        )
        return replace(self, columns=columns) if given else self

    @property
    def file_name(self) -> str:
        """Name of its documents, without suffix."""
        return "-".join(part for part in (self.name, self.suite, self.variant) if part)

    def methods_of(self, column: Column) -> tuple[str, ...]:
        """Methods of one column."""
        return column.methods or self.methods


def shown_name(column: Column) -> str:
    """A column's name with its model's title."""
    return column.name.replace("{model}", column.model_title)


def title_of(model: str) -> str:
    """Short name of a model: the last part of a hub id or path."""
    return Path(model).name
