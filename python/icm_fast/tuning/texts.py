"""What is trained on: the token ids that scoring sees for a zero-shot query, and its label."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icm_fast.errors import InputError
from icm_fast.model.label_scores import LabelTree
from icm_fast.prompts import TokenizedDataset
from icm_fast.types import UNLABELLED, IntArray


@dataclass(frozen=True, slots=True)
class TrainingText:
    """One labelled example.

    Attributes:
        ids: Root, prompt and label tokens, the terminator too where scoring closes labels by it.
        n_loss: How many tokens at the end bear the loss: those of the label.
    """

    ids: tuple[int, ...]
    n_loss: int


def training_texts(
    pieces: TokenizedDataset, tree: LabelTree, labels: IntArray
) -> tuple[TrainingText, ...]:
    """The texts of the labelled examples, in their order.

    Raises:
        InputError: No example is labelled.
    """
    chosen = np.flatnonzero(labels != UNLABELLED)
    if not len(chosen):
        raise InputError(
            f"none of the {len(labels)} examples is labelled; there is nothing to train on"
        )
    # The steps of the tree are what scoring sums over; so training raises just that sum.
    closed = [tuple(token for _, token in path) for path in tree.steps]
    texts = []
    for i in chosen:
        label = closed[int(labels[i])]
        prompt = pieces.root + pieces.prompt(int(i), first=True)
        texts.append(TrainingText(prompt + label, len(label)))
    return tuple(texts)


def check_lengths(texts: Sequence[TrainingText], limit: int) -> None:
    """Raise InputError if a text exceeds ``limit`` tokens; the last token is never forwarded."""
    longest = max(len(text.ids) - 1 for text in texts)
    if longest > limit:
        raise InputError(
            f"the longest training text has {longest} tokens, but the model takes {limit}; shorten "
            "the prompts or pass a model with a longer context"
        )


def order_batches(
    lengths: Sequence[int], *, epochs: int, batch_size: int, seed: int
) -> list[list[int]]:
    """Rows of every batch of every epoch; a function of the arguments alone.

    In each epoch the rows are shuffled, cut into stretches of eight batches, sorted by length
    inside a stretch so that little is padded, and the batches are shuffled again.
    """
    stretch = 8 * batch_size
    batches: list[list[int]] = []
    for epoch in range(epochs):
        random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        rows = [int(row) for row in random.permutation(len(lengths))]
        cut = []
        for start in range(0, len(rows), stretch):
            part = sorted(rows[start : start + stretch], key=lambda row: lengths[row])
            cut += [part[k : k + batch_size] for k in range(0, len(part), batch_size)]
        batches += [cut[int(k)] for k in random.permutation(len(cut))]
    return batches


def texts_digest(texts: Sequence[TrainingText]) -> str:
    """SHA-256 (hex) over all that training sees of the data."""
    content = json.dumps([[text.ids, text.n_loss] for text in texts])
    return hashlib.sha256(content.encode()).hexdigest()
