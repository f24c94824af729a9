"""Contexts of a bounded number of demonstrations, for data sets beyond a context window.

An approximation of the leave-one-out scores: an example sees some of the other labelled examples,
not all. The examples form a ring of blocks in a random order that depends on the seed. The context
of an example holds the labelled examples of the next block, which its whole block shares, and then
the others of its own block, in a leave-one-out tree. Neighbouring blocks thus see each other's
labels, so the data set stays one problem instead of falling apart into independent blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.model.forward.path import ForwardPath
from icm_fast.model.forward.runner import ModelRunner
from icm_fast.plan.leave_one_out import LeaveOneOutPlan
from icm_fast.plan.pieces import TokenizedDataset
from icm_fast.scoring.base import ScorerOfLabels
from icm_fast.scoring.local import TreeScorer
from icm_fast.scoring.protocol import Enough, Scored
from icm_fast.scoring.servers.scorer import ServerScorer
from icm_fast.types import UNLABELLED, BoolArray, FloatArray, IntArray

Block = npt.NDArray[np.intp]


class BoundedScorer(ScorerOfLabels):
    """Scores under at most ``context_demonstrations`` demonstrations per context.

    Cost: n (1 + log2 b) demonstrations, with blocks of about b = context_demonstrations / 2.

    Args:
        tree: Scores the examples of one block at a time.
        pieces: Token pieces of the data set.
        config: Settings.
    """

    def __init__(
        self, tree: TreeScorer | ServerScorer, pieces: TokenizedDataset, config: SearchConfig
    ) -> None:
        self._pieces = pieces
        self._tree = tree
        self.blocks = ring_of_blocks(len(pieces), config.context_demonstrations, config.seed)

    @property
    def runner(self) -> ModelRunner | None:
        """Forwards the segments of all blocks; None for a model on a server."""
        return self._tree.runner if isinstance(self._tree, TreeScorer) else None

    @property
    def path(self) -> ForwardPath | None:
        """What forwards the segments of all blocks; None for a model on a server."""
        return self._tree.path if isinstance(self._tree, TreeScorer) else None

    @property
    def longest_context(self) -> int:
        """Maximum number of tokens before a label, over all contexts."""
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
        """Score some examples as if all were; see :meth:`SearchScorer.score_rows`."""
        blocks = list(enumerate(self.blocks))
        if priority is not None:
            blocks.sort(key=lambda block: float(priority[block[1]].mean()))
        scores = np.full((len(labels), self._tree.n_labels), np.nan, np.float32)
        n_tokens = 0
        needed = [(k, block) for k, block in blocks if rows[block].any()]
        parts = self._parts(labels, [k for k, _ in needed], stops=enough is not None)
        for (_, block), part in zip(needed, parts, strict=False):
            wanted = np.zeros(len(labels), np.bool_)
            wanted[block] = rows[block]
            scores[wanted] = part.scores[wanted]
            n_tokens += part.n_tokens
            if enough is not None and enough(scores):
                break
        return Scored(scores, n_tokens)

    def _parts(self, labels: IntArray, blocks: list[int], *, stops: bool) -> Iterator[Scored]:
        """Scores of each block, together where the scorer joins them and nobody may stop early.

        Always the whole block: its contexts must not depend on which examples are requested.
        """
        shown = (self._shown(labels, k) for k in blocks)
        if isinstance(self._tree, TreeScorer) and self._tree.joins and not stops:
            yield from self._tree.score_many(list(shown))
            return
        for pair in shown:
            yield self._tree.score(*pair)

    def plan(self, labels: IntArray, queries: BoolArray | None = None) -> LeaveOneOutPlan:
        """Refuse: every block has a separate plan.

        Raises:
            InputError: Always.
        """
        raise InputError("there is no single plan with context_demonstrations; set it to 0")

    def predict_tokens(self, labels: IntArray, queries: BoolArray | None = None) -> int:
        """Tokens that :meth:`score` would forward."""
        rows = np.ones(len(labels), np.bool_) if queries is None else queries
        return sum(
            self._tree.predict_tokens(*self._shown(labels, k))
            for k, block in enumerate(self.blocks)
            if rows[block].any()
        )

    def pool_bytes(self, labels: IntArray) -> int:
        """Bytes of the keys and values that scoring all examples under ``labels`` holds."""
        tree = self._tree
        if not isinstance(tree, TreeScorer):
            return 0  # a server holds them
        return tree.pool_bytes_of_many([self._shown(labels, k) for k in range(len(self.blocks))])

    def _shown(self, labels: IntArray, k: int) -> tuple[IntArray, BoolArray]:
        """The labels that block ``k`` sees, ``[n]``, and its examples as queries, ``[n]``."""
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
