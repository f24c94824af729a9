"""Scorers on local weights: ``tree`` (shared prefixes) and ``naive`` (the oracle)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from icm_fast.config import BATCH_TOKENS, KV_BUDGET_TOKENS, SearchConfig
from icm_fast.model.forward.batch import Forward
from icm_fast.model.forward.path import ForwardPath, path_of
from icm_fast.model.forward.runner import ModelRunner
from icm_fast.model.kv_size import fitting_kv_tokens, kv_numbers_per_token
from icm_fast.model.label_head import LabelHead, label_logprobs
from icm_fast.model.loaded import LoadedModel
from icm_fast.model.sharing import turn_of
from icm_fast.plan.joint import groups_within, join_plans
from icm_fast.plan.label_tree import label_tree
from icm_fast.plan.leave_one_out import Growing, LeaveOneOutPlan, Stages, plan_pieces
from icm_fast.plan.pieces import TokenizedDataset
from icm_fast.scoring.base import ScorerOfLabels
from icm_fast.scoring.protocol import Enough, Scored
from icm_fast.scoring.support import require_exact_sharing
from icm_fast.types import BoolArray, FloatArray, IntArray, ScoreArray

DEVICE_BATCH_TOKENS = 16384
"""On a GPU where ``batch_tokens`` is the default: smaller batches leave a large GPU idle."""

STAGE_TOKENS = 2048
"""Size of the sub-trees after which a scorer checks whether it has scored enough: small enough to
stop early, large enough for full batches."""


class _LocalScorer(ScorerOfLabels):
    """What both local scorers share: plans, label tokens and the head."""

    def __init__(
        self,
        loaded: LoadedModel,
        pieces: TokenizedDataset,
        config: SearchConfig,
        *,
        n_pools: int = 1,
    ) -> None:
        self._loaded = loaded
        self._pieces = pieces
        self._config = within_device(config, loaded, n_pools)
        self._tree = label_tree(pieces)
        self._head = LabelHead(loaded.model)

    def plan(
        self,
        labels: IntArray,
        queries: BoolArray | None = None,
        stages: Stages | None = None,
        growing: Growing | None = None,
    ) -> LeaveOneOutPlan:
        """Context orders, token ids and segments for ``labels``."""
        tail = (self._tree.tail_tokens, self._tree.tail_parents)
        return plan_pieces(self._pieces, labels, tail, self._config, queries, stages, growing)

    @property
    def path(self) -> ForwardPath:
        """What forwards the model, and why nothing faster does."""
        return path_of(self._loaded, self._forward(), int8=self._config.int8)

    def _forward(self) -> Forward | None:
        """The implementation that runs segments; None where whole prompts are forwarded."""
        return None

    @property
    def n_labels(self) -> int:
        """Size of the label space."""
        return len(self._tree.steps)

    def _no_scores(self) -> ScoreArray:
        return np.full((len(self._pieces), len(self._tree.steps)), np.nan, np.float32)

    def _logprobs(self, hidden: torch.Tensor) -> ScoreArray:
        """Turn hidden states ``[queries, 1 + tails, hidden_size]`` into scores."""
        logprobs = label_logprobs(self._head, self._tree, hidden, normalize=self._config.normalize)
        scores: ScoreArray = logprobs.cpu().numpy()
        return scores


def within_device(config: SearchConfig, loaded: LoadedModel, n_pools: int = 1) -> SearchConfig:
    """The same settings with pools and batches for the model's GPUs; on a CPU, unchanged.

    Defaults are a CPU's. On a GPU they stand for the pool that fits and larger batches; any other
    pool is kept where it fits.

    Args:
        config: Settings.
        loaded: The model.
        n_pools: How many pools of ``kv_budget_tokens`` are held at once.
    """
    fitting = device_tokens(loaded)
    if fitting is None:
        return config
    each = max(1, fitting // n_pools)
    budget, batch = config.kv_budget_tokens, config.batch_tokens
    return replace(
        config,
        kv_budget_tokens=each if budget == KV_BUDGET_TOKENS else min(budget, each),
        batch_tokens=DEVICE_BATCH_TOKENS if batch == BATCH_TOKENS else batch,
    )


def device_tokens(loaded: LoadedModel) -> int | None:
    """Tokens whose keys and values fit on the model's GPUs; None for a model on the CPU."""
    parameters = list(loaded.model.parameters())
    devices = {p.device for p in parameters if p.device.type == "cuda"}
    if not devices:
        return None
    return fitting_kv_tokens(
        loaded.model.config.get_text_config(decoder=True),
        loaded.model.dtype.itemsize,
        sum(int(torch.cuda.get_device_properties(d).total_memory) for d in devices),
        sum(p.nbytes for p in parameters),
    )


class TreeScorer(_LocalScorer):
    """Exact scores for n log n demonstrations: every shared prefix is forwarded once."""

    def __init__(
        self,
        loaded: LoadedModel,
        pieces: TokenizedDataset,
        config: SearchConfig,
        *,
        n_pools: int = 1,
        joins: bool | None = None,
    ) -> None:
        """Pick the forward implementation.

        Args:
            loaded: The model.
            pieces: Token pieces of the data set.
            config: Settings.
            n_pools: How many pools share the memory of a GPU.
            joins: Whether labellings that are scored together share batches; by default on a GPU,
                which the small levels of one would leave idle.
        """
        super().__init__(loaded, pieces, config, n_pools=n_pools)
        self.runner = ModelRunner(loaded, int8=config.int8)
        self.joins = loaded.device.type == "cuda" if joins is None else joins

    def _forward(self) -> Forward | None:
        return self.runner.forward

    def predict_tokens(self, labels: IntArray, queries: BoolArray | None = None) -> int:
        """Tokens that :meth:`score` would forward."""
        return self.plan(labels, queries).n_tokens

    def pool_bytes(self, labels: IntArray, queries: BoolArray | None = None) -> int:
        """Bytes of the keys and values that :meth:`score` would hold."""
        return int(self.plan(labels, queries).tree.pool_tokens) * self._bytes_per_token()

    def pool_bytes_of_many(self, asked: Sequence[tuple[IntArray, BoolArray | None]]) -> int:
        """Bytes of the keys and values that :meth:`score_many` would hold at once."""
        trees = [self.plan(*one).tree for one in asked]
        budget = self._config.kv_budget_tokens if self.joins else 0
        groups = groups_within(trees, budget)
        slots = max(sum(int(trees[k].pool_tokens) for k in group) for group in groups)
        return slots * self._bytes_per_token()

    def _bytes_per_token(self) -> int:
        """Bytes of one token's keys and values."""
        config = self._loaded.model.config.get_text_config(decoder=True)
        return kv_numbers_per_token(config) * int(self._loaded.model.dtype.itemsize)

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score the queried examples (all by default) under ``labels``, ``[n]``."""
        with turn_of(self._loaded.model):
            return self._run(self.plan(labels, queries), None)

    def score_rows(
        self,
        labels: IntArray,
        rows: BoolArray,
        *,
        enough: Enough | None = None,
        priority: FloatArray | None = None,
    ) -> Scored:
        """Score some examples as if all were; see :meth:`SearchScorer.score_rows`."""
        stage_tokens = 0 if enough is None else STAGE_TOKENS
        with turn_of(self._loaded.model):  # the plan, too: it may be placed in a cache
            return self._run(self.plan_rows(labels, Stages(rows, stage_tokens, priority)), enough)

    def plan_rows(self, labels: IntArray, stages: Stages) -> LeaveOneOutPlan:
        """The plan of :meth:`score_rows`."""
        return self.plan(labels, stages=stages)

    def _ended(self, plan: LeaveOneOutPlan, forwarded: BoolArray) -> None:
        """Called with the segments that have run, ``[n_segments]`` bool, also after an error."""

    def _run(self, plan: LeaveOneOutPlan, enough: Enough | None) -> Scored:
        forwarded = np.zeros(plan.tree.n_segments, np.bool_)
        try:
            return self._run_stages(plan, enough, forwarded)
        finally:
            self._ended(plan, forwarded)

    def _run_stages(
        self, plan: LeaveOneOutPlan, enough: Enough | None, forwarded: BoolArray
    ) -> Scored:
        require_exact_sharing(self._loaded, plan.tree.longest_context)
        found = _Filling(self, plan)
        before = self.runner.n_tokens_forwarded
        with torch.inference_mode():
            for segments, hidden in self.runner.stages(plan.tree, plan.segment_ids, found.wanted):
                forwarded[segments] = True
                if not found.take(segments, hidden):
                    continue
                if enough is not None and found.is_open and enough(found.scores):
                    break
        return Scored(found.scores, self.runner.n_tokens_forwarded - before)

    def score_many(self, asked: Sequence[tuple[IntArray, BoolArray | None]]) -> list[Scored]:
        """Score several labellings, each as :meth:`score` does.

        Where ``joins`` is set, the batches of as many as fit the pool run together. No bit of a
        score depends on what else is in a batch, but for what the libraries of a GPU make of it.

        Args:
            asked: Labellings, ``[n]``, and the examples to score, ``[n]`` bool or all.
        """
        if not self.joins:
            return [self.score(*one) for one in asked]
        with turn_of(self._loaded.model):
            plans = [self.plan(*one) for one in asked]
            trees = [plan.tree for plan in plans]
            groups = groups_within(trees, self._config.kv_budget_tokens)
            return [
                scored
                for group in groups
                for scored in self._run_joint([plans[place] for place in group])
            ]

    def _run_joint(self, plans: list[LeaveOneOutPlan]) -> list[Scored]:
        for plan in plans:
            require_exact_sharing(self._loaded, plan.tree.longest_context)
        joint = join_plans([plan.tree for plan in plans], self._config.batch_tokens)
        found = [_Filling(self, plan) for plan in plans]
        wanted = np.concatenate([one.wanted for one in found])

        def plan_of(segment: int) -> int:
            return int(np.searchsorted(joint.first, segment, side="right")) - 1

        def tokens_of(segment: int) -> list[int]:
            place = plan_of(segment)
            return plans[place].segment_ids(segment - int(joint.first[place]))

        with torch.inference_mode():
            for segments, hidden in self.runner.stages(joint, tokens_of, wanted):
                states = iter(hidden.split(wanted_counts(segments, wanted, joint.first)))
                for place, one in enumerate(found):
                    begin, end = joint.first[place : place + 2]
                    mine = segments[(begin <= segments) & (segments < end)]
                    one.take(mine - int(begin), next(states))
        return [Scored(one.scores, one.plan.n_tokens) for one in found]


def wanted_counts(
    segments: npt.NDArray[np.int32], wanted: BoolArray, first: npt.NDArray[np.int64]
) -> list[int]:
    """How many wanted segments of a batch each plan has; they are side by side, plan after plan."""
    plans = np.searchsorted(first, segments[wanted[segments]], side="right") - 1
    counts: list[int] = np.bincount(plans, minlength=len(first) - 1).tolist()
    return counts


class _Filling:
    """Scores of one plan, filled in as its segments run.

    Attributes:
        plan: The plan.
        scores: ``[n, n_labels]``, NaN where a query is still open.
        wanted: ``[n_segments]`` bool, segments whose last states are needed.
    """

    def __init__(self, scorer: TreeScorer, plan: LeaveOneOutPlan) -> None:
        self.plan = plan
        self.scores = scorer._no_scores()
        self.wanted: BoolArray = (plan.tree.query >= 0) | (plan.tree.tail >= 0)
        self._logprobs = scorer._logprobs
        self._table = _segment_table(plan, len(plan.tail_tokens))
        self._states: dict[int, torch.Tensor] = {}
        self._open = set(range(len(self._table)))
        self._examples = np.flatnonzero(plan.queries)

    @property
    def is_open(self) -> bool:
        """Whether a query has no scores yet."""
        return bool(self._open)

    def take(self, segments: npt.NDArray[np.int32], hidden: torch.Tensor) -> bool:
        """Take the last states of segments that ran; whether queries got their scores.

        Args:
            segments: ``[n]``, those of one batch.
            hidden: ``[n_wanted, hidden_size]``, of the wanted ones among them.
        """
        states, table = self._states, self._table
        states.update(zip(segments[self.wanted[segments]].tolist(), hidden, strict=True))
        ready = [q for q in sorted(self._open) if all(s in states for s in table[q])]
        if not ready:
            return False
        rows = [torch.stack([states[s] for s in table[q]]) for q in ready]
        self.scores[self._examples[ready]] = self._logprobs(torch.stack(rows))
        self._open.difference_update(ready)
        return True


def _segment_table(plan: LeaveOneOutPlan, n_tails: int) -> list[list[int]]:
    """For each query, in the order of the examples: its segment, then one per inner node."""
    tree = plan.tree
    table: dict[int, list[int]] = {
        int(tree.query[s]): [int(s)] * (1 + n_tails)
        for s in np.flatnonzero((tree.query >= 0) & (tree.tail < 0))
    }
    for segment in np.flatnonzero(tree.tail >= 0):
        table[int(tree.query[segment])][int(tree.tail[segment]) + 1] = int(segment)
    return [table[example] for example in sorted(table)]


class NaiveScorer(_LocalScorer):
    """One whole prompt per example through the model's own forward pass: slow, obviously right."""

    def predict_tokens(self, labels: IntArray, queries: BoolArray | None = None) -> int:
        """Tokens that :meth:`score` would forward."""
        plan = self.plan(labels, queries)
        lengths = [len(self._path(node)) for node in range(-1, len(self._tree.tail_tokens))]
        n_queries = int(plan.queries.sum())
        # The plan counts each tail token once; here every inner node has a separate prompt.
        prompts = plan.naive_tokens - n_queries * len(self._tree.tail_tokens)
        return prompts * len(lengths) + n_queries * sum(lengths)

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score the queried examples (all by default) under ``labels``, ``[n]``."""
        plan = self.plan(labels, queries)
        return self._run(plan, np.flatnonzero(plan.queries), None)

    def score_rows(
        self,
        labels: IntArray,
        rows: BoolArray,
        *,
        enough: Enough | None = None,
        priority: FloatArray | None = None,
    ) -> Scored:
        """Score some examples as if all were; see :meth:`SearchScorer.score_rows`."""
        examples = np.flatnonzero(rows)
        if priority is not None:
            examples = examples[np.argsort(priority[examples], kind="stable")]
        return self._run(self.plan(labels), examples, enough)

    def _run(
        self, plan: LeaveOneOutPlan, examples: npt.NDArray[np.intp], enough: Enough | None
    ) -> Scored:
        # The query alone, then the query and the label tokens down to each inner node.
        paths = [self._path(node) for node in range(-1, len(self._tree.tail_tokens))]
        scores, n_tokens = self._no_scores(), 0
        with turn_of(self._loaded.model), torch.inference_mode():
            for done, i in enumerate(examples, start=1):
                ids = plan.prompt_ids(int(i))
                states = torch.stack([self._last_state(ids + path) for path in paths])
                scores[i] = self._logprobs(states[None])[0]
                n_tokens += sum(len(ids) + len(path) for path in paths)
                if enough is not None and done < len(examples) and enough(scores):
                    break
        return Scored(scores, n_tokens)

    def _path(self, node: int) -> list[int]:
        """Label tokens from the query to an inner node of the label tree."""
        return [self._tree.tail_tokens[inner] for inner in self._tree.path(node)]

    def _last_state(self, ids: list[int]) -> torch.Tensor:
        input_ids = torch.tensor([ids], device=self._loaded.device)
        output = self._loaded.model.base_model(input_ids=input_ids, use_cache=False)
        state: torch.Tensor = output.last_hidden_state[0, -1]
        return state
