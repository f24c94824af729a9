"""Labels of a run in one file: a table (JSONL, CSV, Parquet) or training data.

A table has the id, prompt, label, margin and log-probabilities of every example.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from icm_fast.errors import InputError, suggest
from icm_fast.export.lm_eval import LM_EVAL
from icm_fast.export.training_data import (
    Encoded,
    axolotl,
    dpo,
    messages,
    trl_preference,
    trl_sft,
)
from icm_fast.files import json_lines, write_atomically, write_output
from icm_fast.runs.finished import FinishedRun
from icm_fast.runs.store import RUN_FILES


def export_run(
    run: FinishedRun, format: str, path: Path | None = None, *, csv_safe: bool = False
) -> Encoded:
    """Write the labels of ``run``.

    Args:
        run: The finished run.
        format: A key of ``FORMATS``.
        path: A file that the user named: replaced atomically, a link is followed, a device or pipe
            is written to, ``-`` is standard output. By default a file in the run folder.
        csv_safe: See :func:`encode_run`.

    Returns:
        What was written.

    Raises:
        InputError: Unknown format, a run that lacks what the format needs, or a file that cannot
            be written.
    """
    encoded = encode_run(run, format, csv_safe=csv_safe)
    if path is None:
        write_atomically(default_file(run, format), encoded.content)
    else:
        _refuse_run_files(run.folder, path)
        write_output(path, encoded.content)
    return encoded


def _refuse_run_files(folder: Path, path: Path) -> None:
    """Raise InputError if writing ``path`` would replace a file that the run consists of."""
    target = path.resolve()
    if target.name in RUN_FILES and target.parent == folder.resolve():
        raise InputError(
            f"{target.name} is a file of the run in {folder}; name another file for the export"
        )


def default_file(run: FinishedRun, format: str) -> Path:
    """Where :func:`export_run` writes if no file is named."""
    suffix = file_suffix(format)
    name = f"export{suffix}" if suffix == f".{format}" else f"{format}{suffix}"
    return run.folder / name


def encode_run(run: FinishedRun, format: str, *, csv_safe: bool = False) -> Encoded:
    """The file that :func:`export_run` writes, in memory.

    Args:
        run: The finished run.
        format: A key of ``FORMATS``.
        csv_safe: Put an apostrophe before texts of a CSV that spreadsheets take for formulas.

    Raises:
        InputError: Unknown format, or a run that lacks what the format needs.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r}{suggest(format, [*FORMATS, LM_EVAL])}")
    if csv_safe:
        if format != "csv":
            raise InputError(f"--csv-safe changes CSV alone, not {format}; leave it out")
        return _csv(run, safe=True)
    return FORMATS[format](run)


def file_suffix(format: str) -> str:
    """The suffix of files in ``format``, with its dot."""
    return f".{format}" if format in ("csv", "parquet") else ".jsonl"


def format_of(path: Path | None, format: str | None) -> str:
    """The requested format, otherwise that of the file's suffix, otherwise JSONL."""
    if format is not None:
        return format
    suffix = path.suffix.removeprefix(".") if path else ""
    return suffix or "jsonl"


_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Beginnings of formulas in spreadsheets, their full-width forms included."""


class Row(TypedDict):
    """One example in a table; label, confidence and margin are None where it is unlabelled.

    The confidence is None as well where the search gave none.
    """

    id: str
    prompt: str
    label: str | None
    confidence: float | None
    margin: float | None
    logprobs: list[float]


def export_rows(run: FinishedRun) -> list[Row]:
    """One row per example, in the order of the data."""
    labels = run.dataset.label_space
    sure = [None] * len(run.labels) if run.confidence is None else run.confidence.tolist()
    return [
        {
            "id": example.id,
            "prompt": example.prompt,
            "label": labels[int(label)] if label >= 0 else None,
            "confidence": confidence if label >= 0 else None,
            "margin": margin,
            "logprobs": [float(str(value)) for value in scores],
        }
        for example, label, confidence, margin, scores in zip(
            run.dataset.examples, run.labels, sure, run.margins, run.scores, strict=True
        )
    ]


def _table(run: FinishedRun, content: bytes) -> Encoded:
    note = "prompts are without the preamble that the model read" if run.dataset.preamble else ""
    return Encoded(content, len(run.labels), note)


def _jsonl(run: FinishedRun) -> Encoded:
    return _table(run, json_lines(export_rows(run)))


def _csv(run: FinishedRun, *, safe: bool = False) -> Encoded:
    names = [f"logprob:{label.strip()}" for label in run.dataset.label_space]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "prompt", "label", "confidence", "margin", *names])
    for row in export_rows(run):
        texts = (row["id"], row["prompt"], row["label"])
        shown = map(_no_formula, texts) if safe else texts
        writer.writerow([*shown, row["confidence"], row["margin"], *row["logprobs"]])
    return _table(run, text.getvalue().encode())


def _no_formula(text: str | None) -> str | None:
    """The text with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{text}" if text and text.lstrip(" ").startswith(_FORMULAS) else text


def _parquet(run: FinishedRun) -> Encoded:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("id", pa.string()),
            ("prompt", pa.string()),
            ("label", pa.string()),
            ("confidence", pa.float32()),
            ("margin", pa.float32()),
            ("logprobs", pa.list_(pa.float32())),
        ]
    )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(export_rows(run), schema=schema), sink)
    return _table(run, sink.getvalue())


FORMATS: dict[str, Callable[[FinishedRun], Encoded]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
    "trl-sft": trl_sft,
    "messages": messages,
    "trl-preference": trl_preference,
    "dpo": dpo,
    "axolotl": axolotl,
}
