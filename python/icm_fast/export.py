"""Labels of a run as JSONL, CSV or Parquet: id, prompt, label, margin, log-probabilities."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from icm_fast.atomic_file import write_atomically
from icm_fast.errors import InputError, suggest
from icm_fast.finished_run import FinishedRun
from icm_fast.lm_eval_task import LM_EVAL


def export_run(run: FinishedRun, format: str, path: Path) -> int:
    """Write the labels of ``run``.

    Args:
        run: The finished run.
        format: ``jsonl``, ``csv`` or ``parquet``.
        path: The file to write; replaced atomically.

    Returns:
        Number of rows.

    Raises:
        InputError: Unknown format, or a file system that refuses.
    """
    if format not in _ENCODERS:
        raise InputError(f"unknown format {format!r}{suggest(format, [*_ENCODERS, LM_EVAL])}")
    write_atomically(path, _ENCODERS[format](run))
    return len(run.labels)


def format_of(path: Path | None, format: str | None) -> str:
    """The format asked for, else the one that the file's suffix says, else JSONL."""
    if format is not None:
        return format
    suffix = path.suffix.removeprefix(".") if path else ""
    return suffix or "jsonl"


def export_rows(run: FinishedRun) -> list[dict[str, Any]]:
    """One row per example, in the order of the data."""
    labels = run.dataset.label_space
    return [
        {
            "id": example.id,
            "prompt": example.prompt,
            "label": labels[int(label)] if label >= 0 else None,
            "margin": margin,
            "logprobs": [float(str(value)) for value in scores],
        }
        for example, label, margin, scores in zip(
            run.dataset.examples, run.labels, run.margins, run.scores, strict=True
        )
    ]


def _jsonl(run: FinishedRun) -> bytes:
    rows = export_rows(run)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _csv(run: FinishedRun) -> bytes:
    names = [f"logprob:{label.strip()}" for label in run.dataset.label_space]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "prompt", "label", "margin", *names])
    for row in export_rows(run):
        writer.writerow([row["id"], row["prompt"], row["label"], row["margin"], *row["logprobs"]])
    return text.getvalue().encode()


def _parquet(run: FinishedRun) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("id", pa.string()),
            ("prompt", pa.string()),
            ("label", pa.string()),
            ("margin", pa.float32()),
            ("logprobs", pa.list_(pa.float32())),
        ]
    )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(export_rows(run), schema=schema), sink)
    return sink.getvalue()


_ENCODERS: dict[str, Callable[[FinishedRun], bytes]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
}
