"""The first looks at a table: what is in it, and how long its prompts are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.errors import InputError, shown, suggest
from icm_fast.labelling.tables import Table
from icm_fast.labelling.task import LabelTask
from icm_fast.tasks.gold_values import GoldReader
from icm_fast.types import Example, IntArray

if TYPE_CHECKING:
    from icm_fast.plan.text_ids import Tokenizer
    from icm_fast.tasks.rows import Row

_BLOCK = 1024
"""Rows that are tokenized at a time."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a labelling knows of a table before a model is loaded.

    Attributes:
        n_rows: Number of rows.
        columns: Columns of the first row.
        known: ``[n_rows]`` int32, known labels, -1 where there is none.
        digest: SHA-256 (hex) of all values that a prompt or a rule reads.
    """

    n_rows: int
    columns: tuple[str, ...]
    known: IntArray
    digest: str


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the prompts.

    Attributes:
        items: ``[n_items]`` int32, with the separator before each.
        endings: Last characters of the prompts, each as a text.
        label: Tokens that a label takes at most.
        preamble: Tokens before all of them.
    """

    items: IntArray
    endings: tuple[str, ...]
    label: int
    preamble: int = 0


def scan_table(table: Table, task: LabelTask) -> Scan:
    """Read all rows once: count them, check their texts, read known labels.

    Raises:
        InputError: No rows, a column that is missing, or a value that cannot be used.
    """
    task = task.with_template(task.templates()[0])
    reader = GoldReader(task.labels)
    digest = hashlib.sha256()
    known: list[int] = []
    optional = {c for c in (task.known, task.group, task.answer) if c is not None}
    columns: tuple[str, ...] = ()
    for row in table.rows():
        if not known:
            columns = tuple(row.values)
            task.check_columns(columns, table.name, optional)
        optional -= row.values.keys()
        task.examples(row)
        values = [row.values.get(column) for column in task.columns]
        digest.update(json.dumps(values, default=str, ensure_ascii=False).encode() + b"\n")
        known.append(task.known_label(row, reader))
    if not known:
        raise InputError(f"{table.name} has no rows; pass a table with one row per text")
    for column in optional:
        raise InputError(f"{table.name} has no column {shown(column)}{suggest(column, columns)}")
    labels = np.array(known, np.int32)
    if task.known is not None and (labels < 0).all():
        raise InputError(
            f"column {shown(task.known)} of {table.name} holds no label in any row; fill some "
            "cells, or leave the known labels out"
        )
    return Scan(len(labels), columns, labels, digest.hexdigest())


def measure_prompts(table: Table, task: LabelTask, tokenizer: Tokenizer, limit: int) -> Lengths:
    """Tokenize all prompts once.

    Args:
        table: The rows.
        task: What is asked, with its template.
        tokenizer: The model's tokenizer.
        limit: Longest context of the model in tokens.

    Raises:
        InputError: A row alone does not fit the context, after the preamble if there is one.
    """
    labels = [f" {label}" for label in task.labels]
    label_ids = tokenizer(labels, add_special_tokens=False)["input_ids"]
    label_tokens = max(len(ids) for ids in label_ids)
    before = _n_tokens(task.preamble, tokenizer)
    sizes: list[int] = []
    endings: set[str] = set()
    for rows, examples in blocks(table, task, _BLOCK):
        prompts = [task.separator + example.prompt for example in examples]
        for k, ids in enumerate(tokenizer(prompts, add_special_tokens=False)["input_ids"]):
            if before + len(ids) + label_tokens + 1 > limit:
                where = rows[k // task.per_row].where
                after = f" after {before} of the instruction" if before else ""
                raise InputError(
                    f"{where}: the prompt has {len(ids)} tokens{after}, but the context of the "
                    f"model holds {limit} with the label; shorten or remove the row, or pass a "
                    "model with a longer context"
                )
            sizes.append(len(ids))
        endings.update(example.prompt[-1:] for example in examples)
    return Lengths(np.array(sizes, np.int32), tuple(sorted(endings)), label_tokens, before)


def _n_tokens(text: str, tokenizer: Tokenizer) -> int:
    return len(tokenizer([text], add_special_tokens=False)["input_ids"][0]) if text else 0


def blocks(
    table: Table, task: LabelTask, size: int, skip: int = 0
) -> Iterator[tuple[Sequence[Row], list[Example]]]:
    """Rows of a table, ``size`` at a time, with their prompts.

    Args:
        table: The rows.
        task: What is asked, with its template.
        size: Rows in a block; the last one has the rest.
        skip: Blocks at the beginning to leave out.
    """
    rows = islice(table.rows(), skip * size, None)
    while block := list(islice(rows, size)):
        yield block, [example for row in block for example in task.examples(row)]
