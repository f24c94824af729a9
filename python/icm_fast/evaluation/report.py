"""Readable summaries of runs and comparisons, as Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from icm_fast.engine.progress import clock
from icm_fast.files import is_file
from icm_fast.files.fields import Fields, read_object
from icm_fast.files.text import cell
from icm_fast.runs.finished import FinishedRun
from icm_fast.runs.verdict import read_verdict
from icm_fast.types import UNLABELLED

EVALUATION_FILE = "evaluation.json"
DEMO_FILE = "demo.json"
_DOUBTFUL_ROWS = 5


class StoredMethod(TypedDict):
    """The part of a stored :class:`icm_fast.evaluation.compare.MethodResult` that is shown."""

    method: str
    n_shots: int
    accuracy: float
    interval: Sequence[float]
    calibrated_accuracy: float
    auc: float | None
    calibration_error: NotRequired[float]
    consistency: NotRequired[float | None]


def run_report(run: FinishedRun) -> str:
    """Markdown summary of a run: labels, the course of the search, its least certain labels."""
    parts = [
        f"# {cell(run.dataset.name)}: {len(run.dataset)} examples labelled by {cell(run.model)}",
        _facts(run),
        *verdict_parts(run.summary),
        *concern_parts(run.summary),
        "## Labels\n\n" + label_table(run),
        "## Moves\n\n" + _move_table(run.events),
        "## Least certain labels\n\n" + _doubtful_table(run),
    ]
    comparison = read_comparison(run.folder)
    if comparison is not None:
        parts.append("## Against gold\n\n" + comparison_text(comparison))
    return "\n\n".join(parts) + "\n"


def verdict_parts(summary: Mapping[str, Any]) -> list[str]:
    """A section with the verdict on the labels; empty where none was given."""
    verdict = read_verdict(summary)
    if verdict is None:
        return []
    lines = [f"## Verdict\n\n**{verdict.headline}**\n"]
    lines += [f"- {cell(reason)}" for reason in verdict.reasons]
    lines += [f"\n{cell(verdict.advice)}"] if verdict.advice else []
    return ["\n".join(lines)]


def concern_parts(summary: Mapping[str, Any]) -> list[str]:
    """A section with the concerns about a search; empty without concerns."""
    concerns = summary.get("concerns") or []
    if not concerns:
        return []
    return [
        "## Concerns\n\n" + "\n".join(f"- {cell(c['kind'])}: {cell(c['text'])}" for c in concerns)
    ]


def read_comparison(folder: Path) -> dict[str, Any] | None:
    """The stored comparison of a run with gold; None if it was not evaluated."""
    for name in (EVALUATION_FILE, DEMO_FILE):
        stored = read_stored(folder / name)
        if stored is not None:
            comparison: dict[str, Any] = stored["comparison"]
            return comparison
    return None


def read_stored(path: Path) -> dict[str, Any] | None:
    """A comparison with gold and what it was made of; None if there is no such file.

    Raises:
        InputError: The file is damaged.
    """
    if not is_file(path):
        return None
    fields = read_object(path, "delete it and evaluate the run again")
    comparison = fields.inner("comparison")
    for key in ("agreement", "permuted_agreement"):
        if key not in comparison.content:
            raise comparison.error(f"{key} is missing")
        _check_share(comparison, key)
    for key in ("n_gold", "n_test"):
        comparison.integer(key)
    comparison.optional_text("model")
    for row in comparison.objects("methods"):
        _check_method(row)
    return dict(fields.content)


def _check_method(row: Fields) -> None:
    row.text("method")
    row.integer("n_shots")
    for key in ("accuracy", "calibrated_accuracy"):
        if key not in row:
            raise row.wrong(key, "a number")
        _check_share(row, key)
    for key in ("auc", "calibration_error", "consistency"):
        _check_share(row, key)
    if "auc" not in row.content:
        raise row.error("auc is missing")
    row.numbers("interval", 2)


def _check_share(fields: Fields, key: str) -> None:
    """A number, or null or NaN where there is nothing to divide by."""
    value = fields.content.get(key)
    if key in fields and not (isinstance(value, float) and math.isnan(value)):
        fields.number(key, 0, 1)


def comparison_text(comparison: Mapping[str, Any]) -> str:
    """Agreement with gold, what the found labels are worth, and the table of methods.

    Args:
        comparison: See :func:`icm_fast.evaluation.run.evaluate_run`.
    """
    headline = (
        f"Found labels agree with gold on {_share(comparison['agreement'])} of "
        f"{comparison['n_gold']} examples (up to renaming of the labels: "
        f"{_share(comparison['permuted_agreement'])}). Held out: {comparison['n_test']} examples."
    )
    methods: Sequence[StoredMethod] = comparison["methods"]
    if not comparison["n_test"]:
        return headline.replace(
            " Held out: 0 examples.",
            " Nothing is held out, as every example with gold was searched (or has the text of one "
            "that was); search fewer (--limit) to compare predictions, too.",
        )
    if comparison.get("model"):
        headline += f" Predictions are those of {cell(comparison['model'])}."
    parts = (headline, _verdict(methods), _method_table(methods))
    return "\n\n".join(part for part in parts if part)


def _verdict(methods: Sequence[StoredMethod]) -> str:
    """One sentence on what the table shows; empty without a table."""
    if not methods:
        return ""
    rows = {row["method"]: row for row in methods}
    if not {"zero-shot", "ICM many-shot", "golden many-shot"} <= rows.keys():
        return ""
    zero_shot, found, gold = (
        rows[name]["calibrated_accuracy"]
        for name in ("zero-shot", "ICM many-shot", "golden many-shot")
    )
    # The interval of the accuracy with gold, moved to the calibrated one, is what noise explains.
    low, high = rows["golden many-shot"]["interval"]
    margin = (high - low) / 2
    worth = "as well as"
    if abs(found - gold) > margin:
        worth = "better than" if found > gold else "less well than"
    return (
        f"Labels found without supervision serve as demonstrations {worth} gold ones: "
        f"{_share(found)} against {_share(gold)} (calibrated); zero-shot {_share(zero_shot)}."
    )


def _method_table(methods: Iterable[StoredMethod]) -> str:
    """Calibrated accuracy first: the plain one also measures a preference for one label."""
    names = (
        *("method", "shots", "accuracy", "plain", "95 % of plain", "AUC", "calibration error"),
        "consistent",
    )
    rows = [
        (
            row["method"],
            row["n_shots"],
            _share(row["calibrated_accuracy"]),
            _share(row["accuracy"]),
            f"{_share(row['interval'][0])}-{_share(row['interval'][1])}",
            _share(row["auc"]),
            _share(row.get("calibration_error")),
            _share(row.get("consistency")),
        )
        for row in methods
    ]
    return markdown_table(names, rows)


def markdown_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with aligned columns."""
    cells = [[cell(value) for value in row] for row in (names, *rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(names))]
    lines = [" | ".join(one.ljust(w) for one, w in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def label_table(run: FinishedRun) -> str:
    """Number of examples with each label, as a Markdown table."""
    counts = Counter(int(y) for y in run.labels)
    rows = [(name.strip(), counts[y]) for y, name in enumerate(run.dataset.label_space)]
    if counts[UNLABELLED]:
        rows.append(("(unlabelled)", counts[UNLABELLED]))
    return markdown_table(("label", "examples"), rows)


def cost_text(summary: Mapping[str, Any]) -> str:
    """Evaluations, tokens and duration of a search in one line."""
    return (
        f"{summary['n_evaluations']} evaluations of U(D), {summary['n_tokens_forwarded']:,} tokens "
        f"forwarded, {clock(summary['seconds'])}"
    )


def _ending(run: FinishedRun) -> str:
    summary = run.summary
    if run.config.max_iterations == 0:
        return f"with the labels of its start ({run.config.start}); no moves were asked for"
    moves = f"iterations: {summary['n_iterations']}, accepted: {summary['n_accepted']}"
    return f"{cell(summary['reason'])}; {moves}"


def _facts(run: FinishedRun) -> str:
    summary, config = run.summary, run.config
    return "\n".join(
        [
            f"- utility {summary['utility']:.4f} ({config.objective}, alpha {config.alpha:g}, "
            f"preset {config.preset}, seed {config.seed})",
            f"- ended: {_ending(run)}",
            f"- cost: {cost_text(summary)}",
            f"- folder: {cell(run.folder)}",
        ]
    )


def _move_table(events: Iterable[Mapping[str, object]]) -> str:
    tried: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    for event in events:
        tried[str(event["move"])] += 1
        accepted[str(event["move"])] += bool(event.get("accepted"))
    moves = [move for move in tried if move != "done"]
    return markdown_table(
        ("move", "tried", "accepted"), [(move, tried[move], accepted[move]) for move in moves]
    )


def _doubtful_table(run: FinishedRun) -> str:
    """The labelled rows of the least confidence, or margin where the search gave none."""
    name = "margin" if run.confidence is None else "confidence"
    values = run.margins if run.confidence is None else run.confidence.tolist()
    sure = [0.0 if value is None else value for value in values]
    given = [row for row, label in enumerate(run.labels.tolist()) if label != UNLABELLED]
    labels = run.dataset.label_space
    rows = [
        (
            run.dataset.examples[row].id,
            labels[int(run.labels[row])].strip(),
            f"{sure[row]:.2f}",
            _one_line(run.dataset.examples[row].prompt),
        )
        for row in sorted(given, key=lambda row: (sure[row], row))[:_DOUBTFUL_ROWS]
    ]
    return markdown_table(("id", "label", name, "prompt"), rows)


def _one_line(text: str, limit: int = 60) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


def _share(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.2f}"
