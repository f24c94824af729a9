"""Leave-one-out scores of a data set from a server: the same contexts, sent as whole prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from icm_fast.errors import InputError
from icm_fast.plan.label_tree import label_tree
from icm_fast.plan.leave_one_out import LeaveOneOutPlan, plan_pieces
from icm_fast.scoring.base import ScorerOfLabels
from icm_fast.scoring.protocol import Enough, Scored
from icm_fast.scoring.servers.client import Ask, MissingTokenError
from icm_fast.types import BoolArray, FloatArray, IntArray, ScoreArray

if TYPE_CHECKING:
    from icm_fast.config import SearchConfig
    from icm_fast.plan.pieces import TokenizedDataset
    from icm_fast.scoring.servers.lazy import ServedModel

STAGE_REQUESTS = 4
"""Requests for each place in the window, after which a scorer checks whether it has enough."""


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One prompt: an example after its context, and label tokens down to an inner node.

    Attributes:
        example: Position of the example.
        node: Inner node of the label tree, -1 for the example's own end.
        path: Examples of the context in order, then what tells prompts after it apart; sorting by
            it is depth-first.
        sizes: Tokens of each part of the path.
    """

    example: int
    node: int
    path: tuple[int, ...]
    sizes: tuple[int, ...]


class ServerScorer(ScorerOfLabels):
    """Exact scores under the contexts of :class:`~icm_fast.scoring.local.TreeScorer`.

    Each prompt is sent whole, as token ids, in depth-first order, so that a prefix cache computes
    each shared part once: ``n_tokens`` counts the tokens that such a cache leaves.

    Args:
        served: The model.
        pieces: Token pieces of the data set.
        config: Settings; pools and batches are the server's affair.
        labels: Texts of the labels, for messages.
    """

    def __init__(
        self,
        served: ServedModel,
        pieces: TokenizedDataset,
        config: SearchConfig,
        labels: Sequence[str] = (),
    ) -> None:
        self._served = served
        self._pieces = pieces
        self._config = config
        self._label_texts = tuple(labels)
        self._tree = label_tree(pieces)
        nodes = range(-1, len(self._tree.tail_tokens))
        self._wanted = {
            node: tuple(
                sorted({token for path in self._tree.steps for at, token in path if at == node})
            )
            for node in nodes
        }

    @property
    def n_labels(self) -> int:
        """Size of the label space."""
        return len(self._tree.steps)

    def plan(self, labels: IntArray, queries: BoolArray | None = None) -> LeaveOneOutPlan:
        """Context orders, token ids and segments for ``labels``."""
        tail = (self._tree.tail_tokens, self._tree.tail_parents)
        return plan_pieces(self._pieces, labels, tail, self._config, queries)

    def predict_tokens(self, labels: IntArray, queries: BoolArray | None = None) -> int:
        """Tokens that :meth:`score` would make a server with a perfect prefix cache compute."""
        plan = self.plan(labels, queries)
        return _tokens(self._leaves(plan, np.flatnonzero(plan.queries)))

    def n_requests(self, n_rows: int) -> int:
        """Requests that scoring so many rows takes."""
        return n_rows * len(self._wanted)

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score the queried examples (all by default) under ``labels``, ``[n]``.

        Raises:
            InputError: The server fails, or a label is not among what it returns.
        """
        plan = self.plan(labels, queries)
        return self._run(plan, np.flatnonzero(plan.queries), None, None)

    def score_rows(
        self,
        labels: IntArray,
        rows: BoolArray,
        *,
        enough: Enough | None = None,
        priority: FloatArray | None = None,
    ) -> Scored:
        """Score some examples as if all were; see :meth:`SearchScorer.score_rows`."""
        return self._run(self.plan(labels), np.flatnonzero(rows), enough, priority)

    def _run(
        self,
        plan: LeaveOneOutPlan,
        examples: npt.NDArray[np.intp],
        enough: Enough | None,
        priority: FloatArray | None,
    ) -> Scored:
        scores = np.full((len(self._pieces), self.n_labels), np.nan, np.float32)
        leaves = self._leaves(plan, examples)
        stages = [leaves]
        if enough is not None:
            stages = self._staged(leaves, priority)
        n_tokens = 0
        for done, stage in enumerate(stages, start=1):
            self._fill(scores, plan, stage)
            n_tokens += _tokens(stage)
            if enough is not None and done < len(stages) and enough(scores):
                break
        return Scored(scores, n_tokens)

    def _leaves(self, plan: LeaveOneOutPlan, examples: npt.NDArray[np.intp]) -> list[_Leaf]:
        """All prompts of some examples, depth-first."""
        n = len(self._pieces)
        root = len(self._pieces.root)
        first = np.array([len(ids) for ids in self._pieces.first_prompts])
        later = np.array([len(ids) for ids in self._pieces.later_prompts])
        label = np.array([0 if y < 0 else len(self._pieces.labels[y]) for y in plan.labels])
        leaves = []
        for i in examples.tolist():
            order = plan.contexts[i]
            sizes = later[order] + label[order]
            if len(order):
                sizes[0] += first[order[0]] - later[order[0]]
            own = (later if len(order) else first)[i]
            before = (-1, *order.tolist(), n + i)
            tokens = (root, *sizes.tolist(), int(own))
            for node in self._wanted:
                tail = self._tree.path(node)
                path = (*before, *(2 * n + inner for inner in tail))
                leaves.append(_Leaf(i, node, path, (*tokens, *(1 for _ in tail))))
        return sorted(leaves, key=lambda leaf: leaf.path)

    def _staged(self, leaves: list[_Leaf], priority: FloatArray | None) -> list[list[_Leaf]]:
        """Neighbouring examples together, those with the smallest mean priority first."""
        size = STAGE_REQUESTS * self._served.client.requests
        size = max(1, size // len(self._wanted)) * len(self._wanted)  # an example stays whole
        stages = [leaves[start : start + size] for start in range(0, len(leaves), size)]
        if priority is not None:
            stages.sort(key=lambda part: float(np.mean([priority[leaf.example] for leaf in part])))
        return stages

    def _fill(self, scores: ScoreArray, plan: LeaveOneOutPlan, leaves: list[_Leaf]) -> None:
        """Ask for some prompts and write the scores of their examples."""
        asks = []
        prompts: dict[int, list[int]] = {}
        for leaf, shared in zip(leaves, _shared(leaves), strict=True):
            if leaf.example not in prompts:
                prompts = {leaf.example: plan.prompt_ids(leaf.example)}
            tail = [self._tree.tail_tokens[inner] for inner in self._tree.path(leaf.node)]
            ids = (*prompts[leaf.example], *tail)
            asks.append(Ask(ids, self._wanted[leaf.node], shared))
        try:
            answers = self._served.client.ask(asks)
        except MissingTokenError as error:
            raise InputError(self._missing(leaves[error.place], error)) from None
        found = {
            (leaf.example, leaf.node): answer for leaf, answer in zip(leaves, answers, strict=True)
        }
        for i in {leaf.example for leaf in leaves}:
            row = [sum(found[i, node][token] for node, token in path) for path in self._tree.steps]
            values = np.array(row, np.float64)
            if self._config.normalize == "labels":
                values -= np.logaddexp.reduce(values)
            scores[i] = values.astype(np.float32)

    def _missing(self, leaf: _Leaf, error: MissingTokenError) -> str:
        steps = (leaf.node, error.token)
        label = next(y for y, path in enumerate(self._tree.steps) if steps in path)
        text = self._label_texts[label] if self._label_texts else f"number {label}"
        return (
            f"label {text!r} (token {error.token}) is not among the {error.width} most likely "
            f"tokens after example number {leaf.example}, and {self._served.name} returns no "
            "others; use labels that the model expects there, or vLLM, SGLang or llama.cpp"
        )


def _shared(leaves: Sequence[_Leaf]) -> list[int]:
    """Tokens that each prompt shares with the one before it."""
    found = []
    for k, leaf in enumerate(leaves):
        before = leaves[k - 1].path if k else ()
        common = 0
        for own, other, size in zip(leaf.path, before, leaf.sizes, strict=False):
            if own != other:
                break
            common += size
        found.append(common)
    return found


def _tokens(leaves: Sequence[_Leaf]) -> int:
    """Tokens of the prompts, shared ones counted once."""
    return sum(sum(leaf.sizes) - s for leaf, s in zip(leaves, _shared(leaves), strict=True))
