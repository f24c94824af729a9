"""Contexts of a bounded number of demonstrations, for data sets beyond a context window.

An approximation of the leave-one-out scores: example i sees some of the other labelled examples,
not all. The examples form a ring of blocks in a random order that the seed fixes. The context of an
example holds the labelled examples of the next block, which all of its block share, and then the
others of its own block, in a leave-one-out tree. Neighbouring blocks thus see each other's labels,
and the whole set stays one problem, which it would not if each block only saw itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from icm_fast.config import SearchConfig
from icm_fast.model.loaded import LoadedModel
from icm_fast.plan.pieces import TokenizedDataset
from icm_fast.scoring.local import TreeScorer
from icm_fast.scoring.protocol import Enough, Scored
from icm_fast.types import UNLABELLED, BoolArray, FloatArray, IntArray

Block = npt.NDArray[np.intp]


class BoundedScorer:
    """Scores under at most ``context_demonstrations`` demonstrations per context.

    Cost: n (1 + log2 b) demonstrations of about b = context_demonstrations / 2 a block.
    """

    def __init__(self, loaded: LoadedModel, pieces: TokenizedDataset, config: SearchConfig) -> None:
        self._pieces = pieces
        self._tree = TreeScorer(loaded, pieces, config)
        self.blocks = ring_of_blocks(len(pieces), config.context_demonstrations, config.seed)

    @property
    def longest_context(self) -> int:
        """Most tokens that any context puts before a label."""
        bounds = self._pieces.demonstration_bounds()
        sums = [int(bounds[block].sum()) for block in self.blocks]
        if len(sums) > 1:
            sums = [own + after for own, after in zip(sums, sums[1:] + sums[:1], strict=True)]
        return max(sums) + len(self._pieces.root)

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score the queried examples (all by default) under ``labels``, ``[n]``."""
        rows = np.ones(len(labels), np.bool_) if queries is None else queries
        return self.score_rows(labels, rows)

    def score_rows(
        self,
        labels: IntArray,
        rows: BoolArray,
        *,
        enough: Enough | None = None,
        priority: FloatArray | None = None,
    ) -> Scored:
        """Score some examples as if all were; see :class:`icm_fast.scoring.protocol.RowScorer`."""
        blocks = list(enumerate(self.blocks))
        if priority is not None:
            blocks.sort(key=lambda block: float(priority[block[1]].mean()))
        scores = np.full((len(labels), self._tree.n_labels), np.nan, np.float32)
        n_tokens = 0
        for k, block in blocks:
            wanted = np.zeros(len(labels), np.bool_)
            wanted[block] = rows[block]
            if not wanted.any():
                continue
            # Only whole blocks: which examples of it are asked for must not change its contexts.
            part = self._tree.score(*self._shown(labels, k))
            scores[wanted] = part.scores[wanted]
            n_tokens += part.n_tokens
            if enough is not None and enough(scores):
                break
        return Scored(scores, n_tokens)

    def predict_tokens(self, labels: IntArray, queries: BoolArray | None = None) -> int:
        """Tokens that :meth:`score` would forward."""
        rows = np.ones(len(labels), np.bool_) if queries is None else queries
        return sum(
            self._tree.predict_tokens(*self._shown(labels, k))
            for k, block in enumerate(self.blocks)
            if rows[block].any()
        )

    def _shown(self, labels: IntArray, k: int) -> tuple[IntArray, BoolArray]:
        """Labels that a block sees, ``[n]``, and its examples."""
        block = self.blocks[k]
        shown = np.full(len(labels), UNLABELLED, np.int32)
        for seen in (block, self.blocks[(k + 1) % len(self.blocks)]):
            shown[seen] = labels[seen]
        queries = np.zeros(len(labels), np.bool_)
        queries[block] = True
        return shown, queries


def ring_of_blocks(n: int, context_demonstrations: int, seed: int) -> list[Block]:
    """Cut n examples into blocks of nearly equal size, two of which fit a context.

    A context holds the next block and its own without one example: at most
    ``context_demonstrations``.
    """
    size = max(1, (context_demonstrations + 1) // 2)
    n_blocks = max(1, -(-n // size))
    order = np.random.default_rng([seed, n]).permutation(n)
    return [np.sort(part) for part in np.array_split(order, n_blocks)]
