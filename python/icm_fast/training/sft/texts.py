"""What is trained on: a zero-shot query as scoring sees it, with its label; or plain texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from icm_fast.errors import InputError
from icm_fast.identity import json_digest
from icm_fast.plan.label_tree import LabelTree
from icm_fast.plan.pieces import TokenizedDataset, whole_text_ids
from icm_fast.types import UNLABELLED, IntArray


@dataclass(frozen=True, slots=True)
class TrainingText:
    """One labelled example, or a plain text.

    Attributes:
        ids: Root, prompt and label tokens, with the terminator where scoring closes labels by it;
            or root, text and EOS.
        n_loss: Number of tokens at the end that bear the loss: those of the label, or all but the
            first.
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


def plain_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[TrainingText, ...]:
    """Texts with BOS and EOS, as far as the tokenizer has them.

    Raises:
        InputError: No text, or one that holds nothing to predict.
    """
    if not texts:
        raise InputError("there are no texts to train on; pass at least one")
    n_empty = len(whole_text_ids("", tokenizer))
    made = []
    for row, text in enumerate(texts):
        whole = whole_text_ids(text, tokenizer)
        if len(whole) == n_empty or len(whole) < 2:
            raise InputError(f"text {row} is {text!r}, which holds nothing to learn; remove it")
        made.append(TrainingText(whole, len(whole) - 1))
    return tuple(made)


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
    return json_digest([[text.ids, text.n_loss] for text in texts])
