"""The report of several searches of the same rows: where they agree, and where they do not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from icm_fast.engine.progress import clock
from icm_fast.errors import InputError, shown
from icm_fast.evaluation.metrics import agreement
from icm_fast.reports.content import (
    Block,
    Concern,
    Lines,
    Paragraph,
    Report,
    Section,
    Table,
    Tile,
    share,
)
from icm_fast.reports.course import MOST_LINES, by_chain, read_steps
from icm_fast.reports.labelled import Labelled, gold_section, labels_section, rows_section
from icm_fast.reports.searches import (
    own_texts,
    run_confidence,
    search_gold,
    setting,
    stored_concerns,
)
from icm_fast.runs.finished import FinishedRun
from icm_fast.runs.verdict import verdict_level
from icm_fast.types import UNLABELLED, IntArray

_MOST_RUNS = 50
_AGREE, _DIFFER = range(2)


def comparison_report(
    runs: Sequence[FinishedRun], *, gold: str | None = None, n_rows: int
) -> Report:
    """The report of several runs.

    Args:
        runs: Two or more searches with the same labels and some rows in common.
        gold: See :func:`icm_fast.reports.searches.search_gold`; None for no comparison with gold.
        n_rows: Maximum number of rows in the table.

    Raises:
        InputError: Other labels, or no common rows.
    """
    names = _names(runs)
    places = _common_rows(runs)
    labels = np.stack([run.labels[place] for run, place in zip(runs, places, strict=True)])
    known_gold = None
    if gold is not None:
        known_gold = search_gold(runs[0], gold)[places[0]]
    rows = _rows(runs, names, places, labels, known_gold)
    concerns = tuple(
        Concern(c.kind, f"{name}: {c.text}")
        for name, run in zip(names, runs, strict=True)
        for c in stored_concerns(run.summary)
    )
    n_same = int((rows.decided == _AGREE).sum())
    judged = [] if known_gold is None else [_gold_table(names, labels, known_gold)]
    sections = (
        Section("runs", "The runs", (_runs_table(names, runs), *_utility(names, runs))),
        Section("agreement", "Agreement", _agreement(names, labels)),
        labels_section(rows),
        rows_section(rows, n_rows),
        gold_section(rows, judged),
        Section("settings", "Settings that differ", _differences(names, runs)),
    )
    return Report(
        kind="comparison",
        title=f"{len(runs)} searches of {runs[0].dataset.name}",
        lead=f"{rows.n:,} rows are in all of them. A row's label here is the one that the greatest "
        "number of runs gives it.",
        tiles=(
            Tile("runs", f"{len(runs):,}"),
            Tile("rows in all runs", f"{rows.n:,}"),
            Tile("all runs agree", share(n_same, rows.n), f"on {n_same:,} rows"),
            Tile(
                "concerns", str(len(concerns)), "of all runs together" if concerns else "none found"
            ),
        ),
        concerns=concerns,
        no_concerns="The checks found nothing that speaks against the labels of these runs. Read "
        "the rows on which they differ.",
        sections=tuple(section for section in sections if section is not None),
    )


def _names(runs: Sequence[FinishedRun]) -> list[str]:
    """What the runs are called: the names of their folders, numbered where two are the same."""
    if len(runs) > _MOST_RUNS:
        raise InputError(
            f"{len(runs)} runs cannot be compared on a page; name {_MOST_RUNS} or fewer"
        )
    plain = [run.folder.resolve().name for run in runs]
    counts = Counter(plain)
    return [name if counts[name] == 1 else f"{name} ({k})" for k, name in enumerate(plain, start=1)]


def _common_rows(runs: Sequence[FinishedRun]) -> list[npt.NDArray[np.intp]]:
    """Positions of the common rows in each run, in the order of the first: same id, same prompt."""
    first = runs[0]
    for run in runs[1:]:
        if tuple(run.dataset.label_space) != tuple(first.dataset.label_space):
            raise InputError(
                f"{run.folder} has the labels {shown(list(run.dataset.label_space))}, but "
                f"{first.folder} has {shown(list(first.dataset.label_space))}; compare runs with "
                "the same labels"
            )
    found = [{(e.id, e.prompt): k for k, e in enumerate(run.dataset.examples)} for run in runs]
    common = [key for key in found[0] if all(key in place for place in found[1:])]
    if not common:
        raise InputError(
            f"{first.folder} and the other runs have no row in common; compare searches of the "
            "same data"
        )
    return [np.array([place[key] for key in common]) for place in found]


def _rows(
    runs: Sequence[FinishedRun],
    names: Sequence[str],
    places: Sequence[npt.NDArray[np.intp]],
    labels: IntArray,
    gold: IntArray | None,
) -> Labelled:
    label_names = tuple(runs[0].dataset.label_space)
    votes = np.stack([(labels == y).sum(axis=0) for y in range(len(label_names))])
    found = np.where(votes.max(axis=0) > 0, votes.argmax(axis=0), UNLABELLED).astype(np.int32)
    same = (labels == labels[0]).all(axis=0)
    sure = np.stack(
        [
            np.where(own == found, run_confidence(run)[place], 0.0)
            for run, place, own in zip(runs, places, labels, strict=True)
        ]
    ).mean(axis=0)
    examples = [runs[0].dataset.examples[k] for k in places[0].tolist()]
    texts = own_texts([example.prompt for example in examples])
    more: list[tuple[str, Callable[[int], str]]] = [
        (f"label in {name}", partial(_label, label_names, own))
        for name, own in zip(names, labels, strict=True)
    ]
    return Labelled(
        labels=label_names,
        id_of=lambda k: examples[k].id,
        text_of=lambda k: texts[k],
        found=found,
        confidence=sure,
        decided=np.where(same, _AGREE, _DIFFER).astype(np.int32),
        deciders=("all agree", "differ"),
        more=tuple(more),
        what_confidence="Confidence is the mean over all runs of the probability that they give "
        "this label, 0 where a run gives another one.",
        gold=gold,
        decided_by="Runs",
    )


def _label(names: Sequence[str], labels: IntArray, row: int) -> str:
    label = int(labels[row])
    return "(no label)" if label == UNLABELLED else names[label].strip()


def _runs_table(names: Sequence[str], runs: Sequence[FinishedRun]) -> Table:
    rows = tuple(
        (
            name,
            run.model,
            run.config.preset,
            str(run.config.seed),
            f"{run.summary['n_labelled'] if 'n_labelled' in run.summary else len(run.labels):,}",
            f"{run.summary['utility']:.2f}",
            f"{run_confidence(run).mean():.2f}",
            str(len(run.summary.get("concerns") or ())),
            verdict_level(run.summary) or "-",
            f"{run.summary['n_tokens_forwarded']:,}",
            clock(run.summary["seconds"]),
        )
        for name, run in zip(names, runs, strict=True)
    )
    columns = (
        "run",
        "model",
        "preset",
        "seed",
        "labelled",
        "U",
        "confidence",
        "concerns",
        "verdict",
    )
    return Table(
        "What each run found", (*columns, "tokens", "time"), rows, frozenset((3, 4, 5, 6, 7, 9, 10))
    )


def _utility(names: Sequence[str], runs: Sequence[FinishedRun]) -> tuple[Block, ...]:
    lines = [
        series
        for name, run in list(zip(names, runs, strict=True))[:MOST_LINES]
        for series in by_chain(read_steps(run.events), name, lambda step: step.utility)[:1]
    ]
    if not lines:
        return ()
    told = "U of the present labels of each run over its iterations"
    more = f"; the first {MOST_LINES} runs" if len(runs) > MOST_LINES else ""
    title = "Utility U of the runs"
    return (Lines("utility", title, f"{told}{more}.", "iteration", "U", tuple(lines)),)


def _agreement(names: Sequence[str], labels: IntArray) -> tuple[Block, ...]:
    told = Paragraph("Share of the common rows to which two runs give the same label.")
    rows = tuple(
        (name, *(f"{(own == other).mean():.2f}" for other in labels))
        for name, own in zip(names, labels, strict=True)
    )
    numbers = frozenset(range(1, len(names) + 1))
    return (told, Table("Agreement of each two runs", ("run", *names), rows, numbers))


def _gold_table(names: Sequence[str], labels: IntArray, gold: IntArray) -> Table:
    rows = tuple((name, _accuracy(own, gold)) for name, own in zip(names, labels, strict=True))
    return Table(
        "Labels of each run that agree with gold", ("run", "agreement"), rows, frozenset((1,))
    )


def _accuracy(labels: IntArray, gold: IntArray) -> str:
    value = agreement(labels, gold)
    return "–" if math.isnan(value) else f"{value:.3f}"


def _differences(names: Sequence[str], runs: Sequence[FinishedRun]) -> tuple[Block, ...]:
    contents = [{"model": run.model, **run.config.to_dict()} for run in runs]
    keys = dict.fromkeys(key for content in contents for key in content)
    rows = tuple(
        (key, *shown_values)
        for key in keys
        if len(set(shown_values := tuple(setting(content.get(key)) for content in contents))) > 1
    )
    if not rows:
        return (Paragraph("All settings are the same."),)
    return (Table("Settings that are not the same in all runs", ("setting", *names), rows),)
