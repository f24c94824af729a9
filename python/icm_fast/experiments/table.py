"""The result of an experiment as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from icm_fast.evaluation.report import markdown_table
from icm_fast.experiments.documents import (
    KINDS,
    ColumnDocument,
    ExperimentDocument,
    Kind,
    MethodDocument,
    Order,
    SeedSearch,
)
from icm_fast.experiments.methods import METHODS
from icm_fast.files.text import cell, code, printable, without_secrets

NOTHING = "–"
_CountKey = Literal["n_iterations", "n_tokens"]
_OrderKey = Literal["utility", "agreement", "accuracy", "calibrated"]


def experiment_text(document: ExperimentDocument, figure: str) -> str:
    """Markdown of a result document; ``figure`` is the name of its picture."""
    parts = [
        f"# {cell(document['title'])}",
        _preface(document),
        f"![{cell(document['title'])}]({figure})",
        "## Accuracy on held-out examples\n\n" + _accuracies(document, "plain"),
        "Calibrated: the model's preference for one label, its mean prediction over the held-out "
        "examples, is removed.\n\n" + _accuracies(document, "calibrated"),
        *_differences(document),
        "## Searches\n\n" + _searches(document),
        *_orders(document),
        "## Details",
        *[_details(column) for column in document["columns"]],
    ]
    return "\n\n".join(parts) + "\n"


def _preface(document: ExperimentDocument) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    seeds = ", ".join(str(seed) for seed in document["seeds"])
    lines = [
        f"- repeats: {document['source']}; suite {document['suite']}, seeds {seeds}",
        f"- command: {code(without_secrets(document['command']))}",
        f"- {versions}; {document['machine']}",
        "- brackets: 95 % intervals, bootstrap over seeds and over groups of held-out examples",
    ]
    if document["note"]:
        lines.insert(0, f"{printable(document['note'])}\n")
    return "\n".join(lines)


def _accuracies(document: ExperimentDocument, kind: Kind) -> str:
    columns = document["columns"]
    names = list(dict.fromkeys(name for column in columns for name in column["methods"]))
    rows = [
        [METHODS[name].title, *[_accuracy(column["methods"].get(name), kind) for column in columns]]
        for name in names
    ]
    rows.append(["most frequent label", *[_share(column["majority"]) for column in columns]])
    return markdown_table(["method", *[column["name"] for column in columns]], rows)


def _accuracy(method: MethodDocument | None, kind: Kind) -> str:
    if method is None or "left_out" in method:
        return NOTHING
    low, high = method[kind]["interval"]
    return f"{_share(method[kind]['accuracy'])} [{_share(low)}, {_share(high)}]"


def _differences(document: ExperimentDocument) -> list[str]:
    """A section on pairs of methods; nothing if there are none."""
    columns = document["columns"]
    pairs = list(
        dict.fromkeys((d["method"], d["against"]) for c in columns for d in c["differences"])
    )
    if not pairs:
        return []
    rows = []
    for pair in pairs:
        title = " against ".join(METHODS[name].title for name in pair)
        for kind in KINDS:
            found = [_difference_of(column, pair, kind) for column in columns]
            rows.append([title if kind == "plain" else "… calibrated", *found])
    preface = (
        "Differences of accuracy in percentage points on the same held-out examples, with their "
        "intervals. An interval that contains 0 does not separate the two methods."
    )
    return ["## Differences", preface, markdown_table(["", *[c["name"] for c in columns]], rows)]


def _difference_of(column: ColumnDocument, pair: tuple[str, str], kind: Kind) -> str:
    for found in column["differences"]:
        if (found["method"], found["against"]) == pair:
            low, high = (100 * value for value in found[kind]["interval"])
            return f"{100 * found[kind]['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
    return NOTHING


def _searches(document: ExperimentDocument) -> str:
    names = (
        *("data", "n", "agreement with gold, by seed", "up to renaming", "U(found) - U(gold)"),
        *("evaluations", "steps per label", "tokens per label", "seconds"),
    )
    rows = []
    for column in document["columns"]:
        seeds = column["search"]["seeds"]
        rows.append(
            [
                column["name"],
                seeds[0]["n"],
                " ".join(_share(s["agreement"]) for s in seeds),
                " ".join(_share(s["permuted_agreement"]) for s in seeds),
                " ".join(_difference(s["utility"], s["gold_utility"]) for s in seeds),
                f"{_mean([s['n_evaluations'] for s in seeds]):.1f}",
                _per_label(seeds, "n_iterations", ".1f"),
                _per_label(seeds, "n_tokens", ",.0f"),
                f"{_mean([s['seconds'] for s in seeds]):.0f}",
            ]
        )
    return markdown_table(names, rows)


def _per_label(seeds: Sequence[SeedSearch], key: _CountKey, form: str) -> str:
    shares = [s[key] / s["n_labelled"] for s in seeds if s["n_labelled"]]
    return format(_mean(shares), form) if shares else NOTHING


def _orders(document: ExperimentDocument) -> list[str]:
    """A section on the orders of the contexts; nothing if they were not varied."""
    names = (
        *("data", "seed", "U(D)", "leave-one-out agreement with gold", "accuracy", "calibrated"),
        "spread of a log-probability",
    )
    rows = [
        [
            column["name"],
            found["seed"],
            _range(found["orders"], "utility"),
            _range(found["orders"], "agreement"),
            _range(found["orders"], "accuracy"),
            _range(found["orders"], "calibrated"),
            f"{found['spread']:.3f}",
        ]
        for column in document["columns"]
        for found in column["orders"]
    ]
    if not rows:
        return []
    preface = "The same labels under other random orders of all contexts: lowest, mean, highest."
    return ["## Order of the contexts", preface, markdown_table(names, rows)]


def _range(orders: Sequence[Order], key: _OrderKey) -> str:
    values = [order[key] for order in orders]
    return f"{min(values):.2f}, {_mean(values):.2f}, {max(values):.2f}"


def _details(column: ColumnDocument) -> str:
    names = (
        *("method", "labels", "their accuracy", "accuracy", "calibrated", "balanced", "AUC"),
        *("calibration error", "consistent", "tokens", "seconds"),
    )
    rows = [_detail(name, method) for name, method in column["methods"].items()]
    headline = f"### {cell(column['name'])}: {cell(column['task'])}, {cell(column['model'])}"
    left_out = [
        f"{METHODS[name].title}: {cell(method['left_out'])}."
        for name, method in column["methods"].items()
        if "left_out" in method
    ]
    parts = [headline, f"{column['n_test']} held-out examples per seed.", *left_out]
    return "\n\n".join([*parts, markdown_table(names, [row for row in rows if row])])


def _detail(name: str, method: MethodDocument) -> list[str]:
    if "left_out" in method:
        return []
    plain, calibrated = method["plain"], method["calibrated"]
    return [
        METHODS[name].title,
        f"{method['n_shots']:.0f}",
        _share(method["labels_accuracy"]),
        " ".join(_share(value) for value in plain["by_seed"]),
        " ".join(_share(value) for value in calibrated["by_seed"]),
        _share(plain["balanced_accuracy"]),
        _share(method["auc"]),
        _share(method["calibration_error"]),
        _share(plain["consistency"]),
        f"{method['n_tokens']:,.0f}",
        f"{method['seconds']:.1f}",
    ]


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _difference(found: float, gold: float | None) -> str:
    return NOTHING if gold is None else f"{found - gold:+.1f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
