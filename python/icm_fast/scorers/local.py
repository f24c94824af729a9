"""Scorers on local weights: ``tree`` (shared prefixes) and ``naive`` (the oracle)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from icm_fast.config import SearchConfig
from icm_fast.leave_one_out import LeaveOneOutPlan, plan_pieces
from icm_fast.model.label_scores import LabelHead, label_logprobs, label_tree
from icm_fast.model.load import LoadedModel
from icm_fast.model.runner import ModelRunner
from icm_fast.model.support import require_exact_sharing
from icm_fast.prompts import TokenizedDataset
from icm_fast.scorers.protocol import Scored
from icm_fast.types import IntArray

BoolArray = npt.NDArray[np.bool_]


class _LocalScorer:
    """Plans, label tokens and the head, which both local scorers share."""

    def __init__(self, loaded: LoadedModel, pieces: TokenizedDataset, config: SearchConfig) -> None:
        self._loaded = loaded
        self._pieces = pieces
        self._config = config
        self._tree = label_tree(pieces)
        self._head = LabelHead(loaded.model)

    def plan(self, labels: IntArray, queries: BoolArray | None = None) -> LeaveOneOutPlan:
        """Context orders, token ids and segments for ``labels``."""
        tail = (self._tree.tail_tokens, self._tree.tail_parents)
        return plan_pieces(self._pieces, labels, tail, self._config, queries)

    def _scored(self, plan: LeaveOneOutPlan, hidden: torch.Tensor, n_tokens: int) -> Scored:
        """Turn hidden states ``[queries, 1 + tails, hidden_size]`` into scores."""
        logprobs = label_logprobs(self._head, self._tree, hidden, normalize=self._config.normalize)
        scores = np.full((len(plan.labels), len(self._tree.steps)), np.nan, np.float32)
        scores[plan.queries] = logprobs.cpu().numpy()
        return Scored(scores, n_tokens)


class TreeScorer(_LocalScorer):
    """Exact scores at n log n demonstrations: every shared prefix is forwarded once."""

    def __init__(self, loaded: LoadedModel, pieces: TokenizedDataset, config: SearchConfig) -> None:
        super().__init__(loaded, pieces, config)
        self.runner = ModelRunner(loaded, int8=config.int8)

    def predict_tokens(self, labels: IntArray, queries: BoolArray | None = None) -> int:
        """Tokens that :meth:`score` would forward."""
        return self.plan(labels, queries).n_tokens

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score the queried examples (all by default) under ``labels``, ``[n]``."""
        plan = self.plan(labels, queries)
        require_exact_sharing(self._loaded, plan.tree.longest_context)
        before = self.runner.n_tokens_forwarded
        wanted = (plan.tree.query >= 0) | (plan.tree.tail >= 0)
        table = torch.from_numpy(_row_table(plan, wanted, len(self._tree.tail_tokens)))
        with torch.inference_mode():
            hidden = self.runner.last_hidden_states(plan.tree, plan.segment_ids, wanted)[table]
            return self._scored(plan, hidden, self.runner.n_tokens_forwarded - before)


def _row_table(plan: LeaveOneOutPlan, wanted: BoolArray, n_tails: int) -> npt.NDArray[np.int64]:
    """Row of each (query, inner node) in the runner's output, ``[n_queries, 1 + n_tails]``."""
    tree = plan.tree
    row_of_segment = np.cumsum(wanted) - 1
    rank = np.cumsum(plan.queries) - 1
    table = np.zeros((int(plan.queries.sum()), 1 + n_tails), np.int64)
    for segment in np.flatnonzero(wanted):
        tail = int(tree.tail[segment])
        owner = int(segment)
        while tree.tail[owner] >= 0:
            owner = int(tree.parent[owner])
        table[rank[tree.query[owner]], tail + 1] = row_of_segment[segment]
    return table


class NaiveScorer(_LocalScorer):
    """One whole prompt per example through the model's own forward pass: slow and obvious."""

    def predict_tokens(self, labels: IntArray, queries: BoolArray | None = None) -> int:
        """Tokens that :meth:`score` would forward."""
        plan = self.plan(labels, queries)
        lengths = [len(self._path(node)) for node in range(-1, len(self._tree.tail_tokens))]
        n_queries = int(plan.queries.sum())
        # The plan counts each tail token once; here every inner node has a prompt of its own.
        prompts = plan.naive_tokens - n_queries * len(self._tree.tail_tokens)
        return prompts * len(lengths) + n_queries * sum(lengths)

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score the queried examples (all by default) under ``labels``, ``[n]``."""
        plan = self.plan(labels, queries)
        # The query alone, then the query and the label tokens down to each inner node.
        paths = [self._path(node) for node in range(-1, len(self._tree.tail_tokens))]
        states, n_tokens = [], 0
        with torch.inference_mode():
            for i in np.flatnonzero(plan.queries):
                ids = plan.prompt_ids(int(i))
                states.append(torch.stack([self._last_state(ids + path) for path in paths]))
                n_tokens += sum(len(ids) + len(path) for path in paths)
            return self._scored(plan, torch.stack(states), n_tokens)

    def _path(self, node: int) -> list[int]:
        """Label tokens from the query to an inner node of the label tree."""
        tokens: list[int] = []
        while node >= 0:
            tokens.insert(0, self._tree.tail_tokens[node])
            node = self._tree.tail_parents[node]
        return tokens

    def _last_state(self, ids: list[int]) -> torch.Tensor:
        input_ids = torch.tensor([ids], device=self._loaded.device)
        output = self._loaded.model.base_model(input_ids=input_ids, use_cache=False)
        state: torch.Tensor = output.last_hidden_state[0, -1]
        return state
