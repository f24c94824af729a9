"""The plan of texts after labels: how probable is each example's text after each label?

A prompt such as ``Review: fine acting`` and, in a last line, ``Sentiment:`` is turned round: the
last line and a label come first, ``Sentiment: positive``, and the rest of the prompt is what is
scored. Demonstrations are turned round alike. The labelled examples are split into contexts, and
each example is scored after one that does not hold it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from icm_fast.plan.pieces import root_ids
from icm_fast.plan.text_ids import Tokenizer, text_ids
from icm_fast.types import UNLABELLED, Dataset, IntArray

MOST_SHOWN = 32
"""Demonstrations of a context: small models read short ones better (dev/LOG.md)."""

_STREAM = 4
"""Which of the seed's random numbers draw the contexts."""

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TextPlan:
    """Segments of one pass; a leaf is the text of an example after one of the labels.

    Attributes:
        parent: ``[n_segments]`` int32, parent segment or -1.
        ids: Token ids of each segment.
        n_tokens: ``[n_segments]`` int64.
        start: ``[n_segments]`` int64, tokens before each segment in its context.
        kv_offset: ``[n_segments]`` int64, first pool slot of each segment.
        batch_offsets: ``[n_batches + 1]`` int64, where each batch begins in ``batch_segments``.
        batch_segments: ``[n_segments]`` int32, segments in execution order.
        pool_tokens: Size of the key-value pool, in slots.
        is_kept: False: nothing of earlier plans is read.
        leaves: What is scored.
        contexts: ``[n]`` int32, the context after which each example is scored.
        vocabulary: The distinct tokens that are scored, in order.
    """

    parent: Int32s
    ids: tuple[Ids, ...]
    n_tokens: Int64s
    start: Int64s
    kv_offset: Int64s
    batch_offsets: Int64s
    batch_segments: Int32s
    pool_tokens: int
    is_kept: bool
    leaves: tuple[Leaf, ...]
    contexts: Int32s
    vocabulary: Ids

    @property
    def total_tokens(self) -> int:
        """Tokens forwarded in all."""
        return int(self.n_tokens.sum())

    @property
    def longest_context(self) -> int:
        """Tokens of the longest path."""
        return int((self.start + self.n_tokens).max())

    def ids_before(self, leaf: Leaf) -> Ids:
        """All tokens before the text of a leaf."""
        ids: Ids = ()
        segment = leaf.before
        while segment >= 0:
            ids = self.ids[segment] + ids
            segment = int(self.parent[segment])
        return ids


@dataclass(frozen=True, slots=True)
class Leaf:
    """A text after a label.

    Attributes:
        row: The example.
        label: The label.
        scored: Tokens whose probabilities count.
        before: Segment whose last state predicts the first of them; -1 if nothing is before it.
        segment: Segment that holds all but the last of them; -1 if there is only one.
    """

    row: int
    label: int
    scored: Ids
    before: int
    segment: int


def plan_texts(
    dataset: Dataset,
    tokenizer: Tokenizer,
    labels: IntArray,
    *,
    seed: int,
    batch_tokens: int,
    most_shown: int = MOST_SHOWN,
) -> TextPlan:
    """Plan the texts of all examples after each label.

    Args:
        dataset: The examples.
        tokenizer: Encodes them.
        labels: ``[n]``, the labels of the demonstrations and -1 for all others.
        seed: Draws the contexts.
        batch_tokens: Maximum number of tokens in one forward pass; a longer segment runs alone.
        most_shown: Maximum number of demonstrations of a context.
    """
    shown = shown_contexts(labels, seed, most_shown)
    chosen = context_of_rows(shown, len(labels))
    tree = _Tree()
    for place, order in enumerate(shown):
        rows = np.flatnonzero(chosen == place).tolist()
        context, ids = _branch(dataset, tokenizer, order, labels, rows)
        tree.add(context, ids)
    return tree.plan(chosen, batch_tokens)


def shown_contexts(labels: IntArray, seed: int, most_shown: int = MOST_SHOWN) -> list[list[int]]:
    """The demonstrations of each context, in order: at least two contexts, or an empty one.

    Every context gets about as many of each label.

    Args:
        labels: ``[n]``, -1 for all but the demonstrations.
        seed: Draws what is where.
        most_shown: Maximum number of demonstrations of a context.
    """
    rng = np.random.default_rng([seed, len(labels), _STREAM])
    shown = np.flatnonzero(labels != UNLABELLED)
    if not len(shown):
        return [[]]
    n_contexts = max(2, -(-len(shown) // most_shown))
    contexts: list[list[int]] = [[] for _ in range(n_contexts)]
    dealt = 0
    for label in np.unique(labels[shown]):
        for row in rng.permutation(np.flatnonzero(labels == label)):
            contexts[dealt % n_contexts].append(int(row))
            dealt += 1
    return [rng.permutation(context).tolist() for context in contexts]


def context_of_rows(shown: Sequence[Sequence[int]], n: int) -> Int32s:
    """The context after which each example is scored, ``[n]``: one that does not hold it."""
    chosen = np.arange(n, dtype=np.int32) % len(shown)
    for place, rows in enumerate(shown):
        chosen[list(rows)] = (place + 1) % len(shown)
    return chosen


def turned_round(dataset: Dataset, row: int) -> tuple[str, str]:
    """The last line of a prompt, which asks for the label, and what comes before it."""
    text, _, question = dataset.examples[row].prompt.rpartition("\n")
    return (question, text) if text.strip() else ("", dataset.examples[row].prompt)


def _head(dataset: Dataset, row: int, label: int) -> str:
    """What comes before the text of an example: the question and a label."""
    question, _ = turned_round(dataset, row)
    return (question + dataset.label_space[label]).strip() + "\n"


def _demonstration(dataset: Dataset, row: int, label: int) -> str:
    return _head(dataset, row, label) + turned_round(dataset, row)[1]


def _branch(
    dataset: Dataset,
    tokenizer: Tokenizer,
    order: Sequence[int],
    labels: IntArray,
    rows: Sequence[int],
) -> tuple[Ids, dict[tuple[int, int], tuple[Ids, int]]]:
    """A context, and for each row and label all tokens after it and how many are not scored.

    How a tokenizer splits the text at the end of the context depends on what follows, so what is
    common to all rows and labels is the context.
    """
    before = [dataset.preamble] if dataset.preamble else []
    before += [_demonstration(dataset, row, int(labels[row])) for row in order]
    opening = "".join(part + dataset.separator for part in before)
    whole = root_ids(tokenizer) + tuple(text_ids(tokenizer, [opening])[0] if opening else ())
    # What a text does to tokens before it ends within the last demonstration.
    last = before[-1] + dataset.separator if before else ""
    (alone,) = text_ids(tokenizer, [last]) if last else ([],)
    cases = [(row, label) for row in rows for label in range(len(dataset.label_space))]
    heads = [_head(dataset, *case) for case in cases]
    bodies = [turned_round(dataset, row)[1] for row, _ in cases]
    full = text_ids(tokenizer, [last + h + b for h, b in zip(heads, bodies, strict=True)])
    ahead = text_ids(tokenizer, [last + head for head in heads])
    kept = min((_common(alone, ids) for ids in full), default=0)
    context = whole[: len(whole) - (len(alone) - kept)]
    found = {}
    for case, ids, head in zip(cases, full, ahead, strict=True):
        found[case] = (tuple(ids[kept:]), max(1, _common(head, ids) - kept))
    return context, found


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    n = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        n += 1
    return n


class _Tree:
    """Segments as they are added: contexts, what texts after a label have in common, texts."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._ids: list[Ids] = []
        self._depth: list[int] = []
        self._leaves: list[Leaf] = []

    def add(self, context: Ids, cases: dict[tuple[int, int], tuple[Ids, int]]) -> None:
        """Add a context and what comes after it."""
        root = self._segment(-1, context, 0)
        heads: dict[Ids, int] = {}
        for label in sorted({label for _, label in cases}):
            mine = {row: case for (row, of), case in cases.items() if of == label}
            # The beginning that all texts share is read once, and tells nothing about them.
            shared = _shared([ids for ids, _ in mine.values()])
            for row, (ids, unscored) in mine.items():
                cut = min(max(shared, unscored), len(ids) - 1)
                head, scored = ids[:cut], ids[cut:]
                if head not in heads:
                    heads[head] = self._segment(root, head, 1)
                leaf = self._segment(heads[head], scored[:-1], 2)
                own = leaf if len(scored) > 1 else -1
                self._leaves.append(Leaf(row, label, scored, heads[head], own))

    def _segment(self, parent: int, ids: Ids, depth: int) -> int:
        """The number of a new segment, or of its parent if there is nothing in it."""
        if not ids:
            return parent
        self._parent.append(parent)
        self._ids.append(ids)
        self._depth.append(depth)
        return len(self._ids) - 1

    def plan(self, contexts: Int32s, batch_tokens: int) -> TextPlan:
        """The finished plan."""
        n_tokens = np.array([len(ids) for ids in self._ids], np.int64)
        start = np.zeros(len(self._ids), np.int64)
        for segment, parent in enumerate(self._parent):
            start[segment] = 0 if parent < 0 else start[parent] + n_tokens[parent]
        batches, offset, pool = self._batches(n_tokens, batch_tokens)
        return TextPlan(
            parent=np.array(self._parent, np.int32),
            ids=tuple(self._ids),
            n_tokens=n_tokens,
            start=start,
            kv_offset=offset,
            batch_offsets=np.cumsum([0, *map(len, batches)], dtype=np.int64),
            batch_segments=np.concatenate([np.array(b, np.int32) for b in batches]),
            pool_tokens=pool,
            is_kept=False,
            leaves=tuple(self._leaves),
            contexts=contexts,
            vocabulary=tuple(sorted({t for leaf in self._leaves for t in leaf.scored})),
        )

    def _batches(self, n_tokens: Int64s, batch_tokens: int) -> tuple[list[list[int]], Int64s, int]:
        """Batches, first slots and the size of the pool; texts of all batches share their slots."""
        depth = np.array(self._depth)
        offset = np.zeros(len(depth), np.int64)
        batches: list[list[int]] = []
        held = end = 0
        for level in range(3):
            for batch in _packed(np.flatnonzero(depth == level).tolist(), n_tokens, batch_tokens):
                place = held
                for segment in batch:
                    offset[segment] = place
                    place += _even(int(n_tokens[segment]))
                batches.append(batch)
                end = max(end, place)
                if level < 2:
                    held = place
        return batches, offset, end


def _packed(segments: Iterable[int], n_tokens: Int64s, most: int) -> Iterator[list[int]]:
    """Consecutive segments of at most ``most`` tokens together, or one alone."""
    batch: list[int] = []
    held = 0
    for segment in segments:
        size = int(n_tokens[segment])
        if batch and held + size > most:
            yield batch
            batch, held = [], 0
        batch.append(segment)
        held += size
    if batch:
        yield batch


def _shared(sequences: Sequence[Ids]) -> int:
    """How many tokens all sequences begin with."""
    first = sequences[0]
    return min((_common(first, other) for other in sequences[1:]), default=0)


def _even(n: int) -> int:
    """The native decoder keeps keys in pairs, and where pairs fall decides the last bits."""
    return (n + 1) // 2 * 2
