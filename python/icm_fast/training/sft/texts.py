"""What is trained on: a zero-shot query as scoring sees it, with its label; or plain texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from transformers import PreTrainedTokenizerBase

from icm_fast.errors import InputError
from icm_fast.identity import json_digest
from icm_fast.plan.label_tree import LabelTree
from icm_fast.plan.pieces import TokenizedDataset, whole_text_ids
from icm_fast.tasks.rows import PathLike, is_text_file, read_column, read_rows
from icm_fast.training.chat import (
    CHAT,
    Prompt,
    answer_ids,
    check_format,
    prompt_ids,
    read_conversation,
)
from icm_fast.types import UNLABELLED, Dataset, IntArray


@dataclass(frozen=True, slots=True)
class TrainingText:
    """One labelled example, or a plain text.

    Attributes:
        ids: Root, prompt and label tokens, with the terminator where scoring closes labels by it;
            or root, text and EOS.
        n_loss: Number of tokens at the end that bear the loss: those of the label, or all but the
            first; of a conversation those of its last answer.
        group: Texts of one group are held out together.
        weight: What the tokens that bear the loss count in it.
    """

    ids: tuple[int, ...]
    n_loss: int
    group: int = 0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages that end with an answer.

    Attributes:
        prompt: What is answered.
        answer: The last message, which is learned.
    """

    prompt: Prompt
    answer: str


def training_texts(
    pieces: TokenizedDataset,
    tree: LabelTree,
    labels: IntArray,
    groups: Sequence[int] | None = None,
) -> tuple[TrainingText, ...]:
    """The texts of the labelled examples, in their order.

    Args:
        pieces: The data set in tokens.
        tree: Its labels.
        labels: ``[n]``, -1 where unlabelled.
        groups: ``[n]``; every example stands alone by default.

    Raises:
        InputError: No example is labelled.
    """
    chosen = _labelled(labels)
    groups = range(len(labels)) if groups is None else groups
    # The steps of the tree are what scoring sums over; so training raises just that sum.
    closed = [tuple(token for _, token in path) for path in tree.steps]
    texts = []
    for i in chosen:
        label = closed[int(labels[i])]
        prompt = pieces.root + pieces.prompt(i, first=True)
        texts.append(TrainingText(prompt + label, len(label), groups[i]))
    return tuple(texts)


def chat_texts(
    dataset: Dataset, labels: IntArray, tokenizer: PreTrainedTokenizerBase, groups: Sequence[int]
) -> tuple[TrainingText, ...]:
    """The labelled examples as conversations: a prompt of the user, the label as the answer.

    Raises:
        InputError: No example is labelled, or the tokenizer's template cannot render one.
    """
    return tuple(
        _answered(
            Conversation(
                dataset.opening + dataset.examples[i].prompt,
                dataset.label_space[int(labels[i])].strip(),
            ),
            tokenizer,
            CHAT,
            groups[i],
        )
        for i in _labelled(labels)
    )


def read_texts(path: PathLike) -> list[str | Conversation]:
    """Read texts or conversations to train on.

    Args:
        path: Text file with one text per line; or JSON, JSONL, CSV or Parquet file, or
            ``hub:NAME``, with the column ``text``, or ``messages`` that end with an answer.

    Raises:
        InputError: A file that cannot be read, or a row (with its line) without either.
    """
    if is_text_file(path):
        return list(read_column(path, "text"))
    rows = read_rows(path)
    if any("messages" in row.values for row in rows):
        return [Conversation(*read_conversation(row)) for row in rows]
    return list(read_column(path, "text"))


def _labelled(labels: IntArray) -> list[int]:
    """Rows of the labelled examples.

    Raises:
        InputError: There is none.
    """
    chosen = [int(row) for row in np.flatnonzero(labels != UNLABELLED)]
    if not chosen:
        raise InputError(
            f"none of the {len(labels)} examples is labelled; there is nothing to train on"
        )
    return chosen


def _answered(
    one: Conversation, tokenizer: PreTrainedTokenizerBase, format: str, group: int
) -> TrainingText:
    """A conversation with the loss on its last answer and what ends it."""
    before = prompt_ids(tokenizer, one.prompt, format=format)
    whole = answer_ids(tokenizer, one.prompt, one.answer, format=format)
    # In plain text the last token of the prompt may take in the beginning of the answer.
    both = takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False))
    n_before = min(sum(1 for _ in both), len(whole) - 1)
    return TrainingText(whole, len(whole) - n_before, group)


def whole_texts(
    texts: Sequence[str | Conversation], tokenizer: PreTrainedTokenizerBase, format: str
) -> tuple[TrainingText, ...]:
    """Texts and conversations; each is its own group.

    Raises:
        InputError: Nothing to learn, a template that cannot render a conversation, or a text that
            is no conversation where the format is ``chat``.
    """
    if not texts:
        raise InputError("there are no texts to train on; pass at least one")
    check_format(format, tokenizer)
    made = []
    for row, text in enumerate(texts):
        if isinstance(text, Conversation):
            one = _answered(text, tokenizer, format, row)
        elif format == CHAT:
            raise InputError(
                f"text {row} is plain text, but format=chat trains on conversations; write "
                "messages with role and content, or set format=plain"
            )
        else:
            (one,) = plain_texts([text], tokenizer, first=row)
        made.append(one)
    return tuple(made)


def plain_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, first: int = 0
) -> tuple[TrainingText, ...]:
    """Texts with BOS and EOS, as far as the tokenizer has them; each is its own group.

    Args:
        texts: The texts.
        tokenizer: That of the model.
        first: Number of the first text, in messages.

    Raises:
        InputError: No text, or one that holds nothing to predict.
    """
    if not texts:
        raise InputError("there are no texts to train on; pass at least one")
    n_empty = len(whole_text_ids("", tokenizer))
    made = []
    for row, text in enumerate(texts, start=first):
        whole = whole_text_ids(text, tokenizer)
        if len(whole) == n_empty or len(whole) < 2:
            raise InputError(f"text {row} is {text!r}, which holds nothing to learn; remove it")
        made.append(TrainingText(whole, len(whole) - 1, row))
    return tuple(made)


def check_lengths(texts: Sequence[TrainingText], limit: int) -> None:
    """Raise InputError if a text exceeds ``limit`` tokens; the last token is never forwarded."""
    longest = max(len(text.ids) - 1 for text in texts)
    if longest > limit:
        raise InputError(
            f"the longest training text has {longest} tokens, but the model takes {limit}; shorten "
            "the prompts or pass a model with a longer context"
        )


def texts_digest(texts: Sequence[TrainingText]) -> str:
    """SHA-256 (hex) over all that training sees of the data."""
    seen: list[object] = [[text.ids, text.n_loss] for text in texts]
    if is_weighted(texts):  # otherwise the digest is that of earlier versions
        seen.append([text.weight for text in texts])
    return json_digest(seen)


def is_weighted(texts: Sequence[TrainingText]) -> bool:
    """Whether some texts count more than others."""
    return any(text.weight != 1.0 for text in texts)
