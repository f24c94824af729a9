"""README.md of a data set on the Hub: where the labels came from and what to doubt about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath

import numpy as np

from icm_fast.documents import yaml_text
from icm_fast.evaluation.report import (
    comparison_text,
    concern_parts,
    label_table,
    markdown_table,
    read_comparison,
    verdict_parts,
)
from icm_fast.files.text import cell, fenced, printable, without_secrets
from icm_fast.runs.config import IDENTITY, read_config
from icm_fast.runs.finished import FinishedRun
from icm_fast.runs.store import CONFIG_FILE

_PUBLIC_NAME = re.compile(r"(hub:)?\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?")
"""Hub ids, data sets on the Hub and plain names; anything else is a path on someone's machine."""


_PATH = re.compile(r"(?:file:|~|\.{1,2}[/\\]|[/\\]|[A-Za-z]:[/\\])")
_SECRET_KEY = re.compile(r"token|secret|passw|api_?key|credential|authorization", re.I)

_MODEL_TERMS = {
    "gemma": "Gemma models: the Gemma Terms of Use (https://ai.google.dev/gemma/terms) govern the "
    "model and name what its outputs may not be used for",
    "llama-": "Llama models: their community license (https://www.llama.com/llama-downloads/) "
    "governs the model and how what is made with it is named",
    "smollm": "SmolLM models: Apache License 2.0",
}
"""By a part of the model's name; other models are not known here."""

_DATA_TERMS = {
    "truthfulqa": "TruthfulQA: Apache License 2.0",
    "gsm8k": "GSM8K: MIT license",
    "alpaca": "Alpaca data: CC BY-NC 4.0, not for commercial use",
}
"""By a part of the task's name."""


def dataset_card(
    run: FinishedRun, *, file: str, format: str, n_rows: int, note: str, license: str | None = None
) -> str:
    """The card of a data set made from ``run``, as Markdown with YAML front matter.

    Folders are removed from the names of models and data, since others will read the card.

    Args:
        run: The finished run.
        file: Name of the data file next to the card.
        format: Format of that file.
        n_rows: Number of its rows.
        note: What was left out of it and how to use it; may be empty.
        license: Identifier of a license, if the user gave one.

    Raises:
        InputError: config.yaml of the run cannot be read.
    """
    content = read_config(run.folder / CONFIG_FILE)
    parts = [
        _front_matter(run, file, license),
        f"# {cell(run.dataset.name)}: labels found by {cell(public_name(run.model))} "
        "without supervision",
        f"{n_rows} rows in `{file}`, written by `icm-fast export --format {format}`"
        + (f"; {note}." if note else "."),
        _provenance(run),
        _facts(run, content[IDENTITY]),
        *verdict_parts(run.summary),
        *concern_parts(run.summary),
        "## Labels\n\n" + label_table(run) + "\n\n" + _margins(run),
    ]
    comparison = read_comparison(run.folder)
    if comparison is not None:
        public = comparison | {"model": public_name(comparison.get("model") or run.model)}
        parts.append("## Against gold\n\n" + comparison_text(public))
    parts.append("## Resolved configuration\n\n" + fenced_yaml(_configuration(content)))
    parts += _terms(run)
    parts.append("## Versions\n\n" + fenced_yaml(run.summary["versions"]))
    return "\n\n".join(parts) + "\n"


def _front_matter(run: FinishedRun, file: str, license: str | None) -> str:
    tags = ["synthetic", "icm"] + ([run.source.task] if run.source else [])
    content: dict[str, object] = {
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": file}]},
        ],
        **({"license": license} if license else {}),
        "tags": tags,
    }
    return f"---\n{yaml_text(content)}---"


def _provenance(run: FinishedRun) -> str:
    text = (
        "The labels are synthetic: Internal Coherence Maximization "
        "([arXiv 2506.10139](https://arxiv.org/abs/2506.10139)) chose them so that the model "
        "predicts each from the others, with few contradictions."
    )
    if run.source and run.source.options.get("rules") == "authors-code":
        return f"{text} The rule `authors-code` of this task read gold labels."
    if run.config.start == "given":
        return f"{text} The search started from labels that it was given."
    return f"{text} No human label took part."


def _facts(run: FinishedRun, identity: Mapping[str, object]) -> str:
    config, summary = run.config, run.summary
    rows = [
        ("model", public_name(run.model)),
        ("fingerprint of its weights", identity["model_fingerprint"]),
        ("format of its weights", identity["model_dtype"]),
        ("task", run.source.task if run.source else run.dataset.name),
        ("fingerprint of the data", identity["dataset_fingerprint"]),
        *([("preamble", run.dataset.preamble)] if run.dataset.preamble else []),
        ("preset", config.preset),
        ("seed", config.seed),
        (f"U ({config.objective}, alpha {config.alpha:g})", f"{summary['utility']:.4f}"),
        ("search ended", summary["reason"]),
        ("evaluations of U", summary["n_evaluations"]),
    ]
    return "## Search\n\n" + markdown_table(("what", "value"), rows)


def _margins(run: FinishedRun) -> str:
    margins = [margin for margin in run.margins if margin is not None]
    if not margins:
        return "No example is labelled."
    return (
        "Margin of a label over the best other one, natural log: "
        f"least {min(margins):.2f}, median {np.median(margins):.2f}, mean {np.mean(margins):.2f}."
    )


def _configuration(content: Mapping[str, object]) -> dict[str, object]:
    """Settings and source as the run resolved them; the card has identities elsewhere."""
    public = {
        key: public_name(value)
        if key in ("model", "data") and isinstance(value, str)
        else redacted(key, value)
        for key, value in content.items()
    }
    del public[IDENTITY]
    return public


def model_terms(name: str) -> list[str]:
    """Terms that the makers of a model set for what is made with it, as far as they are known."""
    return [terms for part, terms in _MODEL_TERMS.items() if part in name.lower()]


def is_public(name: str) -> bool:
    """Whether a name is one that others can use: a hub id rather than a path of this machine."""
    return "/" in name and _PUBLIC_NAME.fullmatch(name) is not None and not Path(name).exists()


def redacted(key: str, value: object) -> object:
    """A setting or option without folders, access tokens and passwords, at any depth."""
    if _SECRET_KEY.search(key) and isinstance(value, str) and value:
        return "(removed)"
    if isinstance(value, Mapping):
        return {str(inner): redacted(str(inner), one) for inner, one in value.items()}
    if isinstance(value, list):
        return [redacted(key, one) for one in value]
    if not isinstance(value, str):
        return value
    return PurePath(value.replace("\\", "/")).name if _PATH.match(value) else without_secrets(value)


def public_name(name: str) -> str:
    """A name that others may read: a hub id as it is, of a path its last part."""
    plain = name if _PUBLIC_NAME.fullmatch(name) else PurePath(without_secrets(name)).name
    return without_secrets(plain)


def _terms(run: FinishedRun) -> list[str]:
    """Terms that the makers of the model and of the data set for what is made with them."""
    task = run.source.task if run.source else ""
    known = model_terms(run.model)
    known += [terms for name, terms in _DATA_TERMS.items() if name in task]
    return ["## Terms\n\n" + "\n".join(f"- {terms}" for terms in known)] if known else []


def fenced_yaml(content: Mapping[str, object]) -> str:
    """A block of YAML in Markdown."""
    return fenced(printable(yaml_text(content)), "yaml")
