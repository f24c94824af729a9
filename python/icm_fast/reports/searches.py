"""The report of a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.engine.progress import clock
from icm_fast.errors import InputError, shown
from icm_fast.evaluation.gold import load_gold
from icm_fast.evaluation.report import StoredMethod, read_comparison
from icm_fast.reports.content import (
    Bars,
    Block,
    Concern,
    Facts,
    Folded,
    Report,
    Section,
    Table,
    Tile,
)
from icm_fast.reports.course import Step, course_blocks, read_steps, violations_blocks
from icm_fast.reports.labelled import (
    KNOWN,
    Labelled,
    cut_text,
    gold_section,
    labels_section,
    main_tiles,
    rows_section,
)
from icm_fast.runs.finished import FinishedRun
from icm_fast.runs.verdict import read_verdict
from icm_fast.types import UNLABELLED, FloatArray, IntArray

TASK_GOLD = "task"
"""Name under which the gold that a task has is asked for."""

NO_CONCERNS = (
    "The checks found nothing that speaks against these labels. That does not make them right: a "
    "search finds coherent labels, and coherence is not truth. Read some rows."
)
REASONS = {
    "converged": "proposals changed nothing any more",
    "settled": "no proposal was left",
    "max_iterations": "the maximum number of iterations was reached",
    "max_evaluations": "the maximum number of evaluations was reached",
    "max_tokens": "the maximum number of tokens was reached",
}
_DECIDERS = (KNOWN, "search", "not decided")
_KNOWN, _SEARCH, _OPEN = range(3)


def search_report(run: FinishedRun, *, gold: IntArray | None = None, n_rows: int) -> Report:
    """The report of a search.

    Args:
        run: The finished run.
        gold: ``[n]`` gold labels, -1 where unknown; None where they are not asked for.
        n_rows: Maximum number of rows in the table.
    """
    summary, config = run.summary, run.config
    rows = replace(labelled_run(run), gold=gold)
    concerns = stored_concerns(summary)
    comparison = read_comparison(run.folder)
    steps = read_steps(run.events)
    grouped = any(example.group is not None for example in run.dataset.examples)
    violations = violations_blocks(steps, constrained=grouped)
    sections = (
        Section("asked", "What was asked", _asked(run)),
        labels_section(rows),
        rows_section(rows, n_rows),
        Section("search", "The search", course_blocks(steps)),
        Section("constraints", "Constraints", violations) if violations else None,
        Section("cost", "Cost", _cost(run, steps)),
        gold_section(rows, [] if comparison is None else comparison_blocks(comparison)),
        Section("settings", "Settings and versions", settings_blocks(run)),
    )
    return Report(
        kind="search",
        title=f"{run.dataset.name}: {len(run.dataset):,} rows labelled by {run.model}",
        lead="A search for the labels that predict each other best, without supervision. "
        + _ending(run),
        tiles=(
            *main_tiles(rows),
            Tile(
                "utility U",
                f"{summary['utility']:.2f}",
                f"{config.objective} objective, preset {config.preset}",
            ),
            Tile("concerns", str(len(concerns)), "none found" if not concerns else "read them"),
        ),
        concerns=concerns,
        no_concerns=NO_CONCERNS,
        verdict=read_verdict(summary),
        sections=tuple(section for section in sections if section is not None),
    )


def _ending(run: FinishedRun) -> str:
    """How the search ended, as a sentence."""
    if run.config.max_iterations == 0:
        return f"Its labels are those of its start ({run.config.start}): no moves were asked for."
    reason = run.summary["reason"]
    n = run.summary["n_iterations"]
    return f"It ended after {n:,} iterations: {REASONS.get(reason, reason)}."


def search_gold(run: FinishedRun, name: str) -> IntArray:
    """Gold labels of a finished run, read from its source.

    Args:
        run: The run.
        name: ``task`` for the gold that its task has; of a custom task also a column of its data.

    Raises:
        InputError: The run does not say where its data came from, or there is no such gold.
    """
    source = run.source
    if source is None:
        raise InputError(
            f"{run.folder} does not say which task its data came from, so its gold is unknown; "
            "leave out --gold"
        )
    if name != TASK_GOLD:
        if source.task != "custom":
            raise InputError(
                f"task {source.task} has its own gold; pass --gold {TASK_GOLD}, or leave it out"
            )
        source = replace(source, options={**source.options, "gold": name})
    gold = load_gold(source, run.dataset)
    if (gold == UNLABELLED).all():
        if name != TASK_GOLD:
            raise InputError(
                f"no row of {run.folder} has gold in column {shown(name)}; name another one"
            )
        raise InputError(f"task {source.task} has no gold for {run.folder}; leave out --gold")
    return gold


def stored_concerns(summary: Mapping[str, Any]) -> tuple[Concern, ...]:
    """The concerns of a summary."""
    return tuple(Concern(c["kind"], c["text"]) for c in summary.get("concerns") or ())


_JUDGED = (
    "Confidence is the probability of the label by all ways in which the model was asked; its "
    "level follows from how often they say the same."
)
_BARE = (
    "Confidence is the probability of the label among all labels, given the labels of all other "
    "rows. It is not calibrated: its order says more than its level."
)


def run_confidence(run: FinishedRun) -> FloatArray:
    """Probability of each label, ``[n]``; what the search gave, or else :func:`_after_others`."""
    return _after_others(run) if run.confidence is None else run.confidence


def _after_others(run: FinishedRun) -> FloatArray:
    """Probability of each label among the labels, given all others; ``[n]``, 0 without scores."""
    scores = run.scores.astype(np.float64)
    top = scores.max(axis=1, keepdims=True)
    weights = np.exp(scores - top)
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    chosen = np.where(run.labels == UNLABELLED, scores.argmax(axis=1), run.labels)
    found: FloatArray = probabilities[np.arange(len(chosen)), chosen]
    return found


def labelled_run(run: FinishedRun) -> Labelled:
    """The rows of a run."""
    examples = run.dataset.examples
    texts = own_texts([example.prompt for example in examples])
    decided = np.where(run.labels == UNLABELLED, _OPEN, _SEARCH)
    if run.config.fixed_labels:
        decided[np.array(run.config.fixed_labels) != UNLABELLED] = _KNOWN
    more: list[tuple[str, Callable[[int], str]]] = [("margin", lambda k: _margin(run.margins[k]))]
    more += [
        (f"log-probability of {name.strip()}", partial(_log_probability, run, y))
        for y, name in enumerate(run.dataset.label_space)
    ]
    if any(example.group is not None for example in examples):
        more.append(("group", lambda k: examples[k].group or ""))
    return Labelled(
        labels=tuple(run.dataset.label_space),
        id_of=lambda k: examples[k].id,
        text_of=lambda k: texts[k],
        found=run.labels,
        confidence=run_confidence(run),
        decided=decided.astype(np.int32),
        deciders=_DECIDERS,
        more=tuple(more),
        what_confidence=_BARE if run.confidence is None else _JUDGED,
    )


def _margin(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _log_probability(run: FinishedRun, label: int, row: int) -> str:
    return f"{run.scores[row, label]:.3f}"


def own_texts(prompts: Sequence[str]) -> list[str]:
    """What tells the prompts apart: without the template's words before and after the text.

    They are what all prompts begin with, up to a colon or line feed, and the lines that all end
    with.
    """
    start, end = _n_common(prompts), _n_common([prompt[::-1] for prompt in prompts])
    first = prompts[0]
    colon, line = first.rfind(": ", 0, start), first.rfind("\n", 0, start)
    start = max(colon + 2 if colon >= 0 else 0, line + 1)
    ending = first[len(first) - end :]
    end = len(ending) - ending.index("\n") if "\n" in ending else 0
    if len(prompts) < 2 or start + end >= min(map(len, prompts)):
        return list(prompts)
    return [prompt[start : len(prompt) - end].strip() or prompt for prompt in prompts]


def _n_common(texts: Sequence[str]) -> int:
    """How many characters all texts begin with."""
    low, high = min(texts), max(texts)  # where these two agree, all between them do
    return next((k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))


def _asked(run: FinishedRun) -> tuple[Block, ...]:
    source = run.source
    data = "data set made in Python"
    if source is not None:
        data = f"task {source.task}" + (f", {source.data}" if source.data else "")
    labels = ", ".join(name.strip() for name in run.dataset.label_space)
    preamble = run.dataset.preamble
    before = (("Before all rows", cut_text(preamble)),) if preamble.strip() else ()
    return (
        Facts(
            (
                ("Data", data),
                ("Labels", labels),
                ("Model", run.model),
                *before,
                ("First prompt", cut_text(run.dataset.examples[0].prompt)),
            )
        ),
    )


def _cost(run: FinishedRun, steps: Sequence[Step]) -> tuple[Block, ...]:
    summary, config = run.summary, run.config
    asks = [step.n_asks for step in steps if step.n_asks is not None]
    n_evaluations = summary["n_evaluations"]
    items = [
        ("Tokens forwarded", f"{summary['n_tokens_forwarded']:,}"),
        ("Labellings scored", f"{n_evaluations:,}"),
        ("Time", clock(summary["seconds"])),
    ]
    if config.chains == 1 and asks and asks[-1] > n_evaluations:
        items.append(
            (
                "Saved by the store",
                f"{asks[-1] - n_evaluations:,} of {asks[-1]:,} labellings that the search needed "
                "were scored before",
            )
        )
    if summary.get("n_evaluations_resumed"):
        items.append(
            (
                "Saved by resuming",
                f"{summary['n_evaluations_resumed']:,} labellings came from an earlier process",
            )
        )
    items += saving_settings(config, len(run.dataset))
    return (Facts(tuple(items)),)


def saving_settings(config: SearchConfig, n: int) -> list[tuple[str, str]]:
    """What in the settings makes a search cheap, in words."""
    found = []
    if config.scorer == "tree":
        found.append(
            (
                "Saved by shared contexts",
                f"the {n:,} contexts of one labelling share their beginnings, in a tree: n log n "
                "pieces are forwarded instead of n²",
            )
        )
    if config.lazy_queries:
        found.append(
            ("Saved by lazy queries", "rows whose scores no decision needs are not scored")
        )
    if config.early_rejection:
        found.append(
            ("Saved by early rejection", "scoring stops as soon as a rejection is certain")
        )
    return found


def comparison_blocks(comparison: Mapping[str, Any]) -> list[Block]:
    """Agreement with gold and what the labels are worth, as ``icm-fast evaluate`` stored it."""
    facts = Facts(
        (
            (
                "Agreement with gold",
                f"{comparison['agreement']:.2f} of {comparison['n_gold']:,} rows",
            ),
            ("Up to renaming of the labels", f"{comparison['permuted_agreement']:.2f}"),
            ("Held-out rows", f"{comparison['n_test']:,}"),
        )
    )
    methods: Sequence[StoredMethod] = comparison["methods"]
    if not methods or not comparison["n_test"]:
        return [facts]
    figure = Bars(
        "methods",
        "Accuracy on held-out rows",
        "Calibrated accuracy of predictions on held-out rows: "
        + ", ".join(f"{m['method']} {m['calibrated_accuracy']:.2f}" for m in methods)
        + ".",
        tuple(m["method"] for m in methods),
        tuple(m["calibrated_accuracy"] for m in methods),
        tuple(f"{m['calibrated_accuracy']:.2f}" for m in methods),
        "calibrated accuracy",
        limit=1.0,
    )
    return [facts, figure, _methods_table(methods)]


def _methods_table(methods: Sequence[StoredMethod]) -> Table:
    def shown(value: float | None) -> str:
        return "–" if value is None or value != value else f"{value:.2f}"

    return Table(
        "Predictions on held-out rows, with labels of each kind as demonstrations",
        ("method", "demonstrations", "calibrated accuracy", "accuracy", "95 % interval", "AUC"),
        tuple(
            (
                m["method"],
                f"{m['n_shots']:,}",
                shown(m["calibrated_accuracy"]),
                shown(m["accuracy"]),
                f"{shown(m['interval'][0])} to {shown(m['interval'][1])}",
                shown(m["auc"]),
            )
            for m in methods
        ),
        frozenset(range(1, 6)),
    )


def settings_blocks(run: FinishedRun) -> tuple[Block, ...]:
    """The settings that differ from the preset; all of them, and the versions, when opened."""
    content = run.config.to_dict()
    usual = SearchConfig(preset=run.config.preset).to_dict()
    changed = tuple(
        (name, setting(value))
        for name, value in content.items()
        if name != "preset" and usual.get(name) != value
    )
    before = (("Before all examples", run.dataset.preamble),) if run.dataset.preamble else ()
    everything = tuple((name, setting(value)) for name, value in content.items())
    versions = tuple((name, str(number)) for name, number in run.summary["versions"].items())
    return (
        Facts((*before, ("Preset", run.config.preset), *changed, ("Folder", run.folder.name))),
        Folded("All settings", (Facts(everything),)),
        Folded("Versions", (Facts(versions),)),
    )


def setting(value: object) -> str:
    """A setting as text, cut where it is long."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        shown = ", ".join(map(str, value[:12]))
        return f"{shown}, … ({len(value):,} values)" if len(value) > 12 else shown or "–"
    return "–" if value is None else str(value)
