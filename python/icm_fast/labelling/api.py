"""``icm_fast.label``: a table in, the same table with labels out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icm_fast.errors import InputError, shown
from icm_fast.files import expanded
from icm_fast.labelling.config import LabelConfig
from icm_fast.labelling.evidence import DECIDED_BY, Decision
from icm_fast.labelling.output import check_output, write_records
from icm_fast.labelling.run import Labelling, label_rows
from icm_fast.labelling.tables import FileTable, Table, open_table
from icm_fast.labelling.task import LabelTask
from icm_fast.scoring.models import Opened, open_model
from icm_fast.tasks.constraints import RuleLike
from icm_fast.tracking import TrackLike
from icm_fast.types import Reporter

if TYPE_CHECKING:
    from icm_fast.model.loaded import ModelSpec

COLUMNS = ("label", "confidence", "decided_by", "votes")
_BLOCK = 4096
"""Rows whose new values are made at a time."""
DEFAULT_MODEL = "smollm2"
"""The small model that comes with the installation, for a first try."""


def label(
    data: object,
    *,
    text: str | None = None,
    labels: Sequence[str] | Mapping[str, str] = (),
    claim: str | None = None,
    compare: tuple[str, str] | None = None,
    template: str | None = None,
    instruction: str | None = None,
    known: str | None = None,
    group: str | None = None,
    answer: str | None = None,
    rules: Sequence[RuleLike] = (),
    model: ModelSpec | Opened = DEFAULT_MODEL,
    seed: int | None = None,
    abstain: float | None = None,
    prefix: str = "",
    config: LabelConfig | None = None,
    output: str | os.PathLike[str] | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    progress: Reporter | None = None,
    track: TrackLike = None,
) -> Any:
    """Label every row of a table with a language model and no supervision.

    Some rows, the cores, are labelled by an exact search; all others are predicted after them.

    Args:
        data: Path of a CSV, TSV, JSON or JSONL file (each also as .gz) or a Parquet file,
            ``hub:NAME``, a pandas or polars data frame, a ``datasets.Dataset``, or a list of
            dictionaries.
        text: Column whose texts are classified into ``labels``.
        labels: 2 to 50 labels, as people write them; or what each of them means, by label.
        claim: Instead of ``text``: column whose texts are true or false.
        compare: Instead of ``text``: two columns, of which one has the better text. ``text`` may
            name the column of the question.
        template: Prompt with ``{column}`` placeholders that ends right before the label; chosen by
            the model when absent.
        instruction: Text that stands once before all rows, such as who asks and what for.
        known: Column with known labels, empty where a row is to be labelled. They never change,
            and are evidence for the others.
        group: Column of the group inside which ``rules`` work.
        answer: Column of the answer that rules compare.
        rules: Consistency rules; see :mod:`icm_fast.tasks.constraints`.
        model: Hub id, folder, ``.gguf`` file, embedded name, ``(model, tokenizer)``, or the
            address of a server.
        seed: Seed of every draw; replaces that of ``config``.
        abstain: Share of the rows, the least certain ones, that stay without a label; replaces that
            of ``config``.
        prefix: Put before the names of the new columns.
        config: Further settings.
        output: File that receives the table with the new columns; its suffix tells the format.
        output_dir: Folder in which an interrupted labelling resumes. Without it nothing is kept.
        progress: Receives what is going on; nothing is shown when absent.
        track: Called with each step, or names trackers; see :mod:`icm_fast.tracking`.

    Returns:
        Data of the same kind with the columns ``label``, ``confidence`` (probability of the label),
        ``decided_by`` (``known``, ``search``, ``prediction`` or ``abstained``) and ``votes`` (of
        the contexts alone, how many say the same). Of a path: one dictionary per row, or the path
        of ``output`` where that is given.

    Raises:
        InputError: Data, columns, labels or settings that cannot be used, a folder of another
            labelling, or a file that cannot be written.
    """
    table = open_table(data)
    task = LabelTask(
        labels=labels if isinstance(labels, str | Mapping) else tuple(labels),  # type: ignore[arg-type]
        text=text,
        claim=claim,
        compare=compare,
        template=template,
        instruction=instruction,
        known=known,
        group=group,
        answer=answer,
        rules=tuple(rules),
    )
    config = _settings(config, seed=seed, abstain=abstain)
    path = None if output is None else output_path(table, Path(output))
    check_new_columns(table, task, prefix)
    opened = open_model(model, config)
    labelling = label_rows(
        table,
        task,
        model=opened,
        config=config,
        folder=output_dir,
        progress=progress,
        track=track,
    )
    if path is not None:
        write_labelled(table, labelling, path, prefix)
        return path
    return table.with_columns(new_columns(labelling, prefix))


def output_path(table: Table, output: Path | None) -> Path:
    """Where a labelled table is written: a named file, otherwise ``TABLE-labelled.csv``.

    Raises:
        InputError: The suffix names no known format, or the file is the table that is read.
    """
    if output is None:
        name = Path(table.name.replace(":", "-")).name
        stem = name.partition(".")[0] or "table"
        suffixes = "".join(Path(name).suffixes) if isinstance(table, FileTable) else ""
        output = Path(f"{stem}-labelled{suffixes or '.csv'}")
    path = expanded(output)
    check_output(path)
    _refuse_input(table, path)
    return path


def _settings(config: LabelConfig | None, **given: object) -> LabelConfig:
    config = config or LabelConfig()
    changed = {name: value for name, value in given.items() if value is not None}
    return LabelConfig.from_mapping({**config.to_dict(), **changed}) if changed else config


def _refuse_input(table: Table, path: Path) -> None:
    source = Path(table.source) if isinstance(table, FileTable) else None
    if source is not None and source.exists() and path.exists() and path.samefile(source):
        raise InputError(f"{path} is the table that is read; name another output file")


def check_new_columns(table: Table, task: LabelTask, prefix: str) -> None:
    """Raise InputError if a new column would replace one of the table.

    The column of the known labels may be replaced: all that is known stays in it.
    """
    first = next(iter(table.rows()), None)
    for name in () if first is None else COLUMNS:
        column = prefix + name
        if column in first.values and column != task.known:  # type: ignore[union-attr]
            raise InputError(
                f"{table.name} has a column {shown(column)} already; rename it, or give the new "
                "columns a prefix"
            )


def new_columns(labelling: Labelling, prefix: str = "") -> dict[str, list[object]]:
    """The new columns as lists, one value per row."""
    rows = list(_values(labelling))
    return {prefix + name: [values[k] for values in rows] for k, name in enumerate(COLUMNS)}


def _values(labelling: Labelling) -> Iterator[tuple[str | None, float, str, str]]:
    """The new values of each row, in the order of ``COLUMNS``."""
    decision: Decision = labelling.decision
    names = (*labelling.task.labels, None)  # -1 is the last one
    for start in range(0, len(decision.labels), _BLOCK):
        part = slice(start, start + _BLOCK)
        yield from zip(
            [names[label] for label in decision.labels[part].tolist()],
            [round(confidence, 4) for confidence in decision.confidence[part].tolist()],
            [DECIDED_BY[how] for how in decision.decided_by[part].tolist()],
            [f"{votes}/{decision.n_views}" for votes in decision.votes[part].tolist()],
            strict=True,
        )


def write_labelled(table: Table, labelling: Labelling, path: Path, prefix: str = "") -> None:
    """Write the table with the new columns, row by row.

    Raises:
        InputError: The file cannot be written.
    """

    def records() -> Iterator[Mapping[str, object]]:
        for row, new in zip(table.rows(), _values(labelling), strict=True):
            yield {**row.values, **dict(zip(names, new, strict=True))}

    first = next(iter(table.rows()))
    names = [prefix + name for name in COLUMNS]
    columns = [*(c for c in first.values if c not in names), *names]
    if labelling.task.known in names:  # it stays where it was
        columns = [*first.values, *(name for name in names if name not in first.values)]
    write_records(path, records(), columns)
