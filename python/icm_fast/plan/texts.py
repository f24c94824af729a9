"""The plan of texts after labels: how probable is each example's text after each label?

A prompt such as ``Review: fine acting`` and, in a last line, ``Sentiment:`` is turned round: the
last line and a label come first, ``Sentiment: positive``, and the rest of the prompt is what is
scored. Where it is the last line that tells examples apart, a label comes before the whole prompt.
Demonstrations are turned round alike. The labelled examples are split into contexts, and each
example is scored after one that does not hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.plan.joint import Int32s, Segments, even
from icm_fast.plan.pieces import root_ids
from icm_fast.plan.text_ids import Tokenizer, common_length, text_ids
from icm_fast.types import UNLABELLED, Dataset, IntArray

MAX_SHOWN = 16
"""Demonstrations of a context: small models read short ones better (dev/LOG.md)."""

_STREAM = 4
"""Which of the seed's random numbers draw the contexts."""

T = TypeVar("T")
Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPlan(Segments):
    """Segments of one pass; a leaf is the text of an example after one of the labels.

    Attributes:
        ids: Token ids of each segment.
        leaves: What is scored.
        contexts: ``[n]`` int32, the context after which each example is scored.
        vocabulary: The distinct tokens that are scored, in order.
    """

    ids: tuple[Ids, ...]
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
    max_shown: int = MAX_SHOWN,
) -> TextPlan:
    """Plan the texts of all examples after each label.

    Args:
        dataset: The examples.
        tokenizer: Encodes them.
        labels: ``[n]``, the labels of the demonstrations and -1 for all others.
        seed: Draws the contexts.
        batch_tokens: Maximum number of tokens in one forward pass; a longer segment runs alone.
        max_shown: Maximum number of demonstrations of a context.
    """
    shown = shown_contexts(labels, seed, max_shown)
    chosen = context_of_rows(shown, len(labels))
    turned = _Turned(dataset)
    tree = _Tree(batch_tokens)
    for place, order in enumerate(shown):
        rows = np.flatnonzero(chosen == place).tolist()
        if rows:
            tree.add(*_branch(turned, tokenizer, order, labels, rows))
    return tree.plan(chosen)


def fitting_texts(
    dataset: Dataset,
    tokenizer: Tokenizer,
    labels: IntArray,
    config: SearchConfig,
    max_context: int,
    *,
    unplanned: int = 0,
) -> TextPlan:
    """As :func:`plan_texts`, with as few demonstrations in a context as it takes to fit.

    Args:
        dataset: As there.
        tokenizer: As there.
        labels: As there.
        config: Seed, size of batches, and bounds of contexts.
        max_context: Tokens that the model reads at most.
        unplanned: Tokens of a text that are read but not in the plan.

    Raises:
        InputError: A text after one demonstration is too long already.
    """
    limit = config.context_limit or max_context
    max_shown = min(config.context_demonstrations or MAX_SHOWN, MAX_SHOWN)
    while True:
        plan = plan_texts(
            dataset,
            tokenizer,
            labels,
            seed=config.seed,
            batch_tokens=config.batch_tokens,
            max_shown=max_shown,
        )
        longest = plan.longest_context + unplanned
        if longest <= limit:
            return plan
        if max_shown == 1:
            raise InputError(
                f"a text after a label takes {longest:,} tokens, but the model "
                f"reads {limit:,}; shorten the examples or pass channel=False"
            )
        max_shown = max(1, max_shown // 2)


def shown_contexts(labels: IntArray, seed: int, max_shown: int = MAX_SHOWN) -> list[list[int]]:
    """The demonstrations of each context, in order: at least two contexts, or an empty one.

    Every context gets about as many of each label.

    Args:
        labels: ``[n]``, -1 for all but the demonstrations.
        seed: Draws what is where.
        max_shown: Maximum number of demonstrations of a context.
    """
    rng = np.random.default_rng([seed, len(labels), _STREAM])
    shown = np.flatnonzero(labels != UNLABELLED)
    if not len(shown):
        return [[]]
    n_contexts = max(2, -(-len(shown) // max_shown))
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


class _Turned:
    """The prompts of a data set, turned round."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        parts = [example.prompt.rpartition("\n") for example in dataset.examples]
        texts, questions = {text for text, _, _ in parts}, {question for _, _, question in parts}
        if len(texts) < len(questions) or not all(text.strip() for text in texts):
            self._parts = [("", example.prompt) for example in dataset.examples]
        else:
            self._parts = [(question, text) for text, _, question in parts]

    def text(self, row: int) -> str:
        """What is scored of an example."""
        return self._parts[row][1]

    def head(self, row: int, label: int) -> str:
        """What comes before it: the question and a label."""
        return (self._parts[row][0] + self.dataset.label_space[label]).strip() + "\n"

    def demonstration(self, row: int, label: int) -> str:
        """A head and its text."""
        return self.head(row, label) + self.text(row)


def _branch(
    turned: _Turned,
    tokenizer: Tokenizer,
    order: Sequence[int],
    labels: IntArray,
    rows: Sequence[int],
) -> tuple[Ids, dict[tuple[int, int], tuple[Ids, int]]]:
    """A context, and for each row and label all tokens after it and how many are not scored.

    How a tokenizer splits the text at the end of the context depends on what follows, so what is
    common to all rows and labels is the context.
    """
    dataset = turned.dataset
    before = [dataset.preamble] if dataset.preamble else []
    before += [turned.demonstration(row, int(labels[row])) for row in order]
    opening = "".join(part + dataset.separator for part in before)
    whole = root_ids(tokenizer) + tuple(text_ids(tokenizer, [opening])[0] if opening else ())
    # What a text does to tokens before it ends within the last demonstration.
    last = before[-1] + dataset.separator if before else ""
    (alone,) = text_ids(tokenizer, [last]) if last else ([],)
    cases = [(row, label) for row in rows for label in range(len(dataset.label_space))]
    full = text_ids(tokenizer, [last + turned.demonstration(*case) for case in cases])
    heads = list(dict.fromkeys(turned.head(*case) for case in cases))
    ahead = dict(zip(heads, text_ids(tokenizer, [last + head for head in heads]), strict=True))
    kept = min(common_length(alone, ids) for ids in full)
    context = whole[: len(whole) - (len(alone) - kept)]
    found = {}
    for case, ids in zip(cases, full, strict=True):
        unscored = common_length(ahead[turned.head(*case)], ids) - kept
        found[case] = (tuple(ids[kept:]), max(1, unscored))
    return context, found


class _Tree:
    """Segments, batches and slots as contexts are added, one context after the other.

    Args:
        batch_tokens: Maximum number of tokens in one forward pass; a longer segment runs alone.
    """

    def __init__(self, batch_tokens: int) -> None:
        self._batch_tokens = batch_tokens
        self._parent: list[int] = []
        self._ids: list[Ids] = []
        self._offset: list[int] = []
        self._batches: list[list[int]] = []
        self._leaves: list[Leaf] = []
        self._pool = 0

    def add(self, context: Ids, cases: dict[tuple[int, int], tuple[Ids, int]]) -> None:
        """Add a context and what comes after it, in the slots of the contexts before."""
        root, held = -1, 0
        if context:
            root = self._segment(-1, context)
            held = self._place([root], 0)
        # Texts that follow the same label share what all of them begin with.
        by_head: dict[tuple[int, Ids], list[tuple[int, Ids]]] = {}
        for label in sorted({label for _, label in cases}):
            mine = {row: case for (row, of), case in cases.items() if of == label}
            shared = _shared([ids for ids, _ in mine.values()])
            for row, (ids, unscored) in mine.items():
                cut = min(max(shared, unscored), len(ids) - 1)
                by_head.setdefault((label, ids[:cut]), []).append((row, ids[cut:]))
        heads = list(by_head.items())
        for group in _packed(heads, lambda one: len(one[0][1]), self._batch_tokens):
            self._add_heads(root, held, group)

    def _add_heads(
        self, root: int, held: int, heads: list[tuple[tuple[int, Ids], list[tuple[int, Ids]]]]
    ) -> None:
        """Add some heads and their texts after what is held."""
        before = [self._segment(root, ids) if ids else root for (_, ids), _ in heads]
        held = self._place([s for s in before if s != root], held)
        own = []
        for segment, ((label, _), texts) in zip(before, heads, strict=True):
            for row, scored in texts:
                leaf = self._segment(segment, scored[:-1]) if len(scored) > 1 else -1
                own.append(leaf)
                self._leaves.append(Leaf(row, label, scored, segment, leaf))
        leaves = [segment for segment in own if segment >= 0]
        for batch in _packed(leaves, lambda s: len(self._ids[s]), self._batch_tokens):
            self._place(batch, held)

    def _segment(self, parent: int, ids: Ids) -> int:
        """The number of a new segment."""
        self._parent.append(parent)
        self._ids.append(ids)
        self._offset.append(0)
        return len(self._ids) - 1

    def _place(self, batch: list[int], begin: int) -> int:
        """Run segments as a batch, with slots from ``begin`` on; the first slot after them."""
        for segment in batch:
            self._offset[segment] = begin
            begin += even(len(self._ids[segment]))
        if batch:
            self._batches.append(batch)
        self._pool = max(self._pool, begin)
        return begin

    def plan(self, contexts: Int32s) -> TextPlan:
        """The finished plan."""
        n_tokens = np.array([len(ids) for ids in self._ids], np.int64)
        start = np.zeros(len(self._ids), np.int64)
        for segment, parent in enumerate(self._parent):
            start[segment] = 0 if parent < 0 else start[parent] + n_tokens[parent]
        return TextPlan(
            parent=np.array(self._parent, np.int32),
            ids=tuple(self._ids),
            n_tokens=n_tokens,
            start=start,
            kv_offset=np.array(self._offset, np.int64),
            batch_offsets=np.cumsum([0, *map(len, self._batches)], dtype=np.int64),
            batch_segments=np.array([s for batch in self._batches for s in batch], np.int32),
            pool_tokens=self._pool,
            leaves=tuple(self._leaves),
            contexts=contexts,
            vocabulary=tuple(sorted({t for leaf in self._leaves for t in leaf.scored})),
        )


def _packed(items: Iterable[T], size_of: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Consecutive items of at most ``most`` tokens together, or one alone."""
    group: list[T] = []
    held = 0
    for item in items:
        size = size_of(item)
        if group and held + size > most:
            yield group
            group, held = [], 0
        group.append(item)
        held += size
    if group:
        yield group


def _shared(sequences: Sequence[Ids]) -> int:
    """How many tokens all sequences begin with."""
    first = sequences[0]
    return min((common_length(first, other) for other in sequences[1:]), default=0)
