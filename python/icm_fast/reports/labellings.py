"""The report of a labelling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from icm_fast.engine.progress import clock
from icm_fast.errors import InputError, shown
from icm_fast.evaluation.gold import column_gold
from icm_fast.files import is_file, refuse_links
from icm_fast.files.fields import Fields, read_object
from icm_fast.labelling.evidence import DECIDED_BY
from icm_fast.labelling.folder import CORES, SETTINGS_FILE, SUMMARY_FILE
from icm_fast.labelling.review import row_text
from icm_fast.labelling.stored import StoredLabelling, read_labelling
from icm_fast.reports.content import (
    Bars,
    Block,
    Concern,
    Facts,
    Folded,
    Lines,
    Paragraph,
    Report,
    Section,
    Table,
    Tile,
    share,
)
from icm_fast.reports.course import MOST_LINES, by_chain, read_steps
from icm_fast.reports.labelled import (
    Labelled,
    chosen_rows,
    gold_section,
    labels_section,
    main_tiles,
    rows_section,
)
from icm_fast.reports.searches import REASONS, setting, stored_concerns
from icm_fast.runs.finished import FinishedRun, read_run
from icm_fast.runs.verdict import read_verdict
from icm_fast.tasks.constraints import compile_rules
from icm_fast.tasks.hub import HUB_PREFIX
from icm_fast.types import UNLABELLED, Constraint, Example, LabelSpace

_AGAIN = "run the labelling again"
_SHARES = {
    "given": "as given",
    "estimated": "estimated from the rows",
    "assumed": "taken to be about equal",
}
_MOST_VIOLATIONS = 20
"""Violated pairs that are listed."""


@dataclass(frozen=True, slots=True, eq=False)
class _Folder:
    """Everything that the folder of a finished labelling holds."""

    stored: StoredLabelling
    settings: Fields
    summary: Fields
    cores: tuple[FinishedRun, ...]


def labelling_report(
    folder: Path, *, gold: str | None = None, data: str | None = None, n_rows: int
) -> Report:
    """The report of a labelling.

    Args:
        folder: Folder of a finished labelling.
        gold: Column with gold labels; None where they are not asked for.
        data: The table, where it has moved.
        n_rows: Maximum number of rows in the table of rows.

    Raises:
        InputError: An unfinished or damaged folder, or a table that is missing or has changed.
    """
    read = _read(folder, data)
    rows = _rows(read.stored, gold, n_rows)
    concerns = _concerns(read.cores)
    model = read.cores[0].model if read.cores else "a model"
    name = read.stored.table.name
    violations = _violations(read)
    sections = (
        Section("asked", "What was asked", _asked(read, model)),
        labels_section(rows, (_shares(read),)),
        Section("how", "How labels came about", _ways(read.stored)),
        rows_section(rows, n_rows),
        Section("cores", "The searched cores", _cores(read.cores, _n_wanted(read.settings))),
        Section("constraints", "Constraints", violations) if violations else None,
        Section("cost", "Cost", _cost(read)),
        gold_section(rows),
        Section("settings", "Settings and versions", _settings(read)),
    )
    return Report(
        kind="labelling",
        title=f"{name}: {rows.n:,} rows labelled by {model}",
        lead="A few rows, the cores, were searched exactly; every row was then predicted after "
        "them. No gold label was used.",
        tiles=(
            *main_tiles(rows),
            _agreement_tile(read.stored),
            Tile("concerns", str(len(concerns)), "about the cores" if concerns else "none found"),
        ),
        concerns=concerns,
        verdict=read_verdict(read.summary.content),
        no_concerns="The checks of the searched cores found nothing that speaks against these "
        "labels. That does not make them right. Read some of the least certain rows.",
        sections=tuple(section for section in sections if section is not None),
    )


def _agreement_tile(stored: StoredLabelling) -> Tile:
    decision = stored.decision
    n_all = int((decision.votes == decision.n_views).sum())
    rows = f"rows on which all {decision.n_views} contexts agree"
    return Tile("agreement", share(n_all, len(decision.votes)), rows)


def _read(folder: Path, data: str | None) -> _Folder:
    stored = read_labelled(folder, data)
    cores = folder / CORES
    refuse_links(cores)
    found = sorted(cores.iterdir()) if cores.is_dir() else []
    found = [path for path in found if is_file(path / SUMMARY_FILE)]
    return _Folder(
        stored,
        read_object(folder / SETTINGS_FILE, _AGAIN),
        read_object(folder / SUMMARY_FILE, _AGAIN),
        tuple(map(read_run, found)),
    )


def read_labelled(folder: Path, data: str | None) -> StoredLabelling:
    """A finished labelling with its table; says how to name the table where it has moved.

    Args:
        folder: Folder of the labelling.
        data: The table, where it has moved.

    Raises:
        InputError: An unfinished or damaged folder, or a table that is missing or has changed.
    """
    if data is None and is_file(folder / SUMMARY_FILE):
        _check_table(folder)
    return read_labelling(folder, data)


def _check_table(folder: Path) -> None:
    """Say how to name the table where it is not found."""
    place = read_object(folder / SETTINGS_FILE, _AGAIN).optional_text("table")
    if place is None:
        raise InputError(
            f"the table of {folder} was in memory; write it to a file and name that with --data"
        )
    if not place.startswith(HUB_PREFIX) and not Path(place).exists():
        raise InputError(
            f"the table of {folder} is no longer at {place}; name its place with --data FILE"
        )


def _rows(stored: StoredLabelling, gold: str | None, n_rows: int) -> Labelled:
    task, decision = stored.task, stored.decision
    if gold is not None and gold in task.columns:
        raise InputError(
            f"column {shown(gold)} is what the prompt reads, so it is not gold; name another one"
        )
    wanted = set(chosen_rows(decision.confidence, n_rows).tolist())
    texts = {row.number: row_text(row, task) for row in stored.table.rows() if row.number in wanted}
    more: list[tuple[str, Callable[[int], str]]] = [
        ("votes", lambda k: f"{decision.votes[k]} of {decision.n_views}")
    ]
    more += [
        (f"probability of {name}", partial(_probability, stored, y))
        for y, name in enumerate(task.labels)
    ]
    return Labelled(
        labels=task.labels,
        id_of=str,
        text_of=texts.__getitem__,
        found=decision.labels,
        confidence=decision.confidence,
        decided=decision.decided_by.astype(np.int32),
        deciders=DECIDED_BY,
        more=tuple(more),
        what_confidence="Confidence is the probability of a label. Its level follows from how "
        "often the contexts agree, not from gold: its order is more reliable than its level. Rows "
        "are numbered from 0, as in corrections.",
        gold=None if gold is None else column_gold(stored.table.rows(), gold, task.labels),
    )


def _probability(stored: StoredLabelling, label: int, row: int) -> str:
    return f"{stored.decision.probabilities[row, label]:.4f}"


def _concerns(cores: Sequence[FinishedRun]) -> tuple[Concern, ...]:
    return tuple(
        Concern(concern.kind, f"Core {k}: {concern.text}")
        for k, core in enumerate(cores, start=1)
        for concern in stored_concerns(core.summary)
    )


def _asked(read: _Folder, model: str) -> tuple[Block, ...]:
    task = read.stored.task
    content = read.settings.inner("task").content
    asked = {
        "classify": "which label each text has",
        "claim": "whether each text is true",
        "compare": "which of two texts is better",
    }
    items = [
        ("Table", read.stored.table.name),
        ("Question", asked[task.form]),
        ("Labels", ", ".join(task.labels)),
        ("Prompt", task.template or ""),
        ("Model", model),
    ]
    if task.instruction:
        items.append(("Instruction", task.instruction))
    items += [(f"Meaning of {name}", meant) for name, meant in task.descriptions.items()]
    if content.get("known"):
        items.append(("Known labels", f"column {content['known']}"))
    if content.get("rules"):
        items.append(("Rules", setting(content["rules"])))
    return (Facts(tuple(items)),)


def _shares(read: _Folder) -> Facts:
    decision = read.stored.decision
    told = ", ".join(
        f"{name} {p:.2f}" for name, p in zip(read.stored.task.labels, decision.shares, strict=True)
    )
    return Facts((("Expected shares", f"{told} ({_SHARES[decision.shares_from]})"),))


def _ways(stored: StoredLabelling) -> tuple[Block, ...]:
    decision = stored.decision
    n = len(decision.labels)
    ways = [(name, count) for name, count in decision.counts().items() if count]
    views = np.bincount(decision.votes, minlength=decision.n_views + 1)
    votes = [(f"{k} of {decision.n_views}", int(c)) for k, c in enumerate(views) if c]
    return (
        _bars("decided", "Decided by", ways, n, "Rows by how their label came about"),
        _bars("votes", "Contexts that agree", votes, n, "Rows by how many contexts alone say so"),
    )


def _bars(key: str, title: str, counts: Sequence[tuple[str, int]], n: int, told: str) -> Bars:
    shares = [f"{count:,} · {share(count, n)}" for _, count in counts]
    listed = ", ".join(f"{name} {text}" for (name, _), text in zip(counts, shares, strict=True))
    return Bars(
        key,
        title,
        f"{told}: {listed}.",
        tuple(name for name, _ in counts),
        tuple(float(count) for _, count in counts),
        tuple(shares),
        "rows",
        limit=float(n),
    )


def _n_wanted(settings: Fields) -> int:
    return settings.inner("config").integer("cores")


def _cores(cores: Sequence[FinishedRun], n_wanted: int) -> tuple[Block, ...]:
    if not cores:
        return (Paragraph("The folder holds no searched core."),)
    blocks: list[Block] = []
    if len(cores) > n_wanted:
        told = (
            f"The folder holds {len(cores)} searched cores, of which the last call used {n_wanted} "
            "or fewer: the others are of earlier settings."
        )
        blocks.append(Paragraph(told))
    lines = [
        series
        for k, core in enumerate(cores[:MOST_LINES], start=1)
        for series in by_chain(read_steps(core.events), f"core {k}", lambda step: step.utility)[:1]
    ]
    if lines:
        blocks.append(
            Lines(
                "utility",
                "Utility U of the cores",
                "U of the present labels of each core over its iterations.",
                "iteration",
                "U",
                tuple(lines[:MOST_LINES]),
            )
        )
    return (*blocks, _cores_table(cores))


def _cores_table(cores: Sequence[FinishedRun]) -> Table:
    rows = tuple(
        (
            str(k),
            f"{len(core.dataset):,}",
            f"{core.summary['utility']:.2f}",
            f"{core.summary['n_iterations']:,}",
            f"{core.summary['n_evaluations']:,}",
            f"{core.summary['n_tokens_forwarded']:,}",
            REASONS.get(core.summary["reason"], core.summary["reason"]),
        )
        for k, core in enumerate(cores, start=1)
    )
    names = ("core", "prompts", "U", "iterations", "labellings scored", "tokens", "ended because")
    return Table("The searches of the cores", names, rows, frozenset(range(1, 6)))


def _violations(read: _Folder) -> tuple[Block, ...]:
    """Violated rules between rows; nothing where there are no rules."""
    content = read.settings.inner("task").content
    rules = content.get("rules")
    if not rules or not isinstance(rules, list):
        return ()
    task, labels = read.stored.task, read.stored.decision.labels
    examples = [
        Example(f"row-{row.number}", ".", row.optional(task.group), row.optional(task.answer))
        for row in read.stored.table.rows()
    ]
    constraints = compile_rules(examples, LabelSpace(task.labels), rules)
    broken = [c for c in constraints if _is_broken(c, int(labels[c.first]), int(labels[c.second]))]
    told = Paragraph(f"{len(broken):,} of {len(constraints):,} constraints are violated.")
    if not broken:
        return (told,)
    rows = tuple(
        (str(c.first), task.labels[labels[c.first]], str(c.second), task.labels[labels[c.second]])
        for c in broken[:_MOST_VIOLATIONS]
    )
    names = ("row", "label", "other row", "its label")
    return (told, Table(f"Violated constraints, the first {len(rows)}", names, rows))


def _is_broken(constraint: Constraint, first: int, second: int) -> bool:
    labelled = first != UNLABELLED and second != UNLABELLED
    return labelled and not constraint.allowed[first][second]


def _cost(read: _Folder) -> tuple[Block, ...]:
    summary, decision = read.summary, read.stored.decision
    n_predicted = int((decision.decided_by == DECIDED_BY.index("prediction")).sum())
    items = [
        ("Tokens forwarded", f"{summary.integer('n_tokens_forwarded'):,}"),
        ("Time of the last call", clock(summary.number("seconds", 0))),
    ]
    if n_predicted:
        chunk = read.settings.inner("config").integer("chunk_rows")
        items += [
            ("Saved by prediction", f"{n_predicted:,} rows were predicted and not searched"),
            (
                "Saved by shared demonstrations",
                f"those of a core are forwarded once for each {chunk:,} rows, not for each row",
            ),
        ]
    return (Facts(tuple(items)),)


def _settings(read: _Folder) -> tuple[Block, ...]:
    config = read.settings.inner("config")
    versions = read.summary.inner("versions")
    return (
        Facts((("Folder", read.stored.folder.name),)),
        Folded(
            "All settings",
            (Facts(tuple((name, setting(value)) for name, value in config.content.items())),),
        ),
        Folded(
            "Versions",
            (Facts(tuple((name, versions.text(name)) for name in versions.content)),),
        ),
    )
