"""Scores from demonstrations that do not see one another: a cheap stand-in for the exact ones.

Each demonstration is encoded once, alone behind the root, and kept for the whole search; a query
attends to all others' at once (compare parallel context windows, Ratner et al., ACL 2023). An
evaluation costs its queries only. It is an approximation of another function, so it only ever
screens candidates (``delayed_acceptance``); what is accepted is scored exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.model.label_scores import LabelHead, label_logprobs, label_tree
from icm_fast.model.load import LoadedModel
from icm_fast.model.packed import PackedBatch
from icm_fast.model.runner import make_forward
from icm_fast.prompts import TokenizedDataset
from icm_fast.scorers.local import device_tokens
from icm_fast.scorers.protocol import Scored
from icm_fast.types import UNLABELLED, IntArray

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens to forward: where their keys lie, what they see, and from which position on."""

    tokens: tuple[int, ...]
    slot: int
    ranges: tuple[Range, ...]
    position: int
    wanted: bool


def _check_memory(loaded: LoadedModel, pool_tokens: int) -> None:
    """Raise InputError if a device has no room for the pool beside that of the exact scores."""
    fitting = device_tokens(loaded)
    if fitting is not None and pool_tokens > fitting // 2:
        raise InputError(
            f"delayed_acceptance holds keys and values of {pool_tokens:,} tokens, and there is "
            f"room for {fitting // 2:,} on {loaded.device}; label fewer examples, or leave it off"
        )


class IndependentScorer:
    """Leave-one-out scores under independently encoded demonstrations."""

    def __init__(self, loaded: LoadedModel, pieces: TokenizedDataset, config: SearchConfig) -> None:
        self._pieces = pieces
        self._config = config
        self._tree = label_tree(pieces)
        self._head = LabelHead(loaded.model)
        self._forward = make_forward(loaded, generic=False, int8=config.int8)
        self._encoded: set[tuple[int, int]] = set()
        n, n_labels = len(pieces), len(pieces.labels)
        lengths = [[len(self._demonstration(i, y)) for y in range(n_labels)] for i in range(n)]
        self._lengths = np.array(lengths, np.int64)
        # Every pair of example and label has slots of its own; then every query, with its tails.
        ends = np.cumsum(_even(self._lengths).ravel())
        self._slots = (ends - _even(self._lengths).ravel()).reshape(n, n_labels)
        n_tails = len(self._tree.tail_tokens)
        queries = [
            len(pieces.root) + max(len(pieces.prompt(i, first=f)) for f in (True, False))
            for i in range(n)
        ]
        sizes = _even(np.array(queries, np.int64) + 2 * n_tails)
        self._query_slots = int(ends[-1]) + np.cumsum(sizes) - sizes
        self._pool_tokens = int(ends[-1] + sizes.sum())
        _check_memory(loaded, self._pool_tokens)

    def score(self, labels: IntArray) -> Scored:
        """Score all examples under ``labels``, ``[n]``."""
        labelled = np.flatnonzero(labels != UNLABELLED).tolist()
        new = [(i, int(labels[i])) for i in labelled]
        new = [pair for pair in new if pair not in self._encoded]
        longest = int(self._lengths.max()) * (len(labelled) + 2)
        self._forward.open(self._pool_tokens, longest, keep=True)
        with torch.inference_mode():
            tokens = sum(n for n, _ in self._run([self._encoding(i, y) for i, y in new]))
            self._encoded.update(new)
            queries = [self._query(i, labelled, labels) for i in range(len(labels))]
            n_tails = len(self._tree.tail_tokens)
            states: list[list[torch.Tensor]] = [[] for _ in queries]
            # The queries, then the inner nodes of the label tree behind them, one after the other.
            for node in range(-1, n_tails):
                pieces = [self._behind(query, node) for query in queries]
                rows = []
                for n, hidden in self._run(pieces):
                    tokens += n
                    rows.extend(hidden)
                for own, row in zip(states, rows, strict=True):
                    own.append(row)
            hidden = torch.stack([torch.stack(own) for own in states])
            scores = label_logprobs(
                self._head, self._tree, hidden, normalize=self._config.normalize
            )
        return Scored(scores.cpu().numpy(), tokens)

    def _demonstration(self, example: int, label: int) -> tuple[int, ...]:
        root = tuple(self._pieces.root)
        return root + tuple(self._pieces.demonstration(example, label, first=True))

    def _encoding(self, example: int, label: int) -> _Piece:
        tokens = self._demonstration(example, label)
        return _Piece(tokens, int(self._slots[example, label]), (), 0, wanted=False)

    def _query(self, example: int, labelled: list[int], labels: IntArray) -> _Piece:
        """The prompt behind all labelled examples but its own; the root is seen once."""
        root, slot = len(self._pieces.root), int(self._query_slots[example])
        ranges: list[Range] = []
        longest = 0
        for j in labelled:
            if j == example:
                continue
            begin = int(self._slots[j, labels[j]])
            length = int(self._lengths[j, labels[j]])
            ranges.append((begin + (root if ranges else 0), begin + length))
            longest = max(longest, length)
        if not ranges:
            tokens = tuple(self._pieces.root) + self._pieces.prompt(example, first=True)
            return _Piece(tokens, slot, (), 0, wanted=True)
        tokens = self._pieces.prompt(example, first=False)
        return _Piece(tokens, slot, tuple(ranges), longest, wanted=True)

    def _behind(self, query: _Piece, node: int) -> _Piece:
        """An inner node of the label tree behind a query; the query itself for node -1."""
        if node < 0:
            return query
        path = self._tree.path(node)
        end = query.slot + len(query.tokens)
        first = end + end % 2
        places = [(first + 2 * above, first + 2 * above + 1) for above in path]
        return _Piece(
            (self._tree.tail_tokens[node],),
            places[-1][0],
            (*query.ranges, (query.slot, end), *places[:-1]),
            query.position + len(query.tokens) + len(path) - 1,
            wanted=True,
        )

    def _run(self, pieces: list[_Piece]) -> Iterator[tuple[int, torch.Tensor]]:
        """Forward pieces in batches; yields tokens and hidden states of the wanted ones."""
        first, size = 0, 0
        for k, piece in enumerate(pieces):
            size += len(piece.tokens)
            last = k + 1 == len(pieces)
            if last or size + len(pieces[k + 1].tokens) > self._config.batch_tokens:
                yield size, self._forward.run(_pack(pieces[first : k + 1]))
                first, size = k + 1, 0


def _even(
    sizes: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return (sizes + 1) // 2 * 2


def _pack(pieces: list[_Piece]) -> PackedBatch:
    return PackedBatch(
        token_ids=np.array([t for piece in pieces for t in piece.tokens], np.int64),
        n_tokens=np.array([len(piece.tokens) for piece in pieces], np.int64),
        start=np.array([sum(e - b for b, e in piece.ranges) for piece in pieces], np.int64),
        own=np.array([piece.slot for piece in pieces], np.int64),
        ranges=tuple(piece.ranges for piece in pieces),
        wanted=np.array([piece.wanted for piece in pieces], np.bool_),
        rotary_start=np.array([piece.position for piece in pieces], np.int64),
    )
