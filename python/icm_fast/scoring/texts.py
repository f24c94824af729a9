"""How probable each example's text is after each label: the noisy channel.

Asked the other way round, a small model errs in other examples than when it is asked for the label
(Min et al., arXiv 2108.04106). Demonstrations are turned round alike; an example is scored after
some of the labelled ones, never after itself (:mod:`icm_fast.plan.texts`). The probability of a
token is that among the tokens of all texts that are scored, as that of a label is among the labels.
"""

from __future__ import annotations

import numpy as np
import torch

from icm_fast.config import SearchConfig
from icm_fast.model.forward.batch import ALL, LAST, NONE, n_returned
from icm_fast.model.forward.runner import ModelRunner
from icm_fast.model.label_head import LabelHead
from icm_fast.model.loaded import LoadedModel
from icm_fast.model.sharing import turn_of
from icm_fast.plan.texts import Leaf, TextPlan, fitting_texts
from icm_fast.scoring.local import within_device
from icm_fast.scoring.protocol import Scored
from icm_fast.scoring.support import require_exact_sharing, require_tree_support
from icm_fast.types import Dataset, FloatArray, IntArray, ScoreArray


class TextScorer:
    """Scores texts with a model of this process.

    Args:
        loaded: The model.
        dataset: The examples.
        config: Seed, budgets and limits.
    """

    def __init__(self, loaded: LoadedModel, dataset: Dataset, config: SearchConfig) -> None:
        self._loaded = loaded
        self._dataset = dataset
        self._config = within_device(config, loaded)
        self._head = LabelHead(loaded.model)
        self._shares = config.scorer == "tree"
        if self._shares:
            require_tree_support(loaded)

    def plan(self, labels: IntArray) -> TextPlan:
        """What :meth:`score_texts` forwards; contexts are short enough for the model.

        Raises:
            InputError: A text after one demonstration is too long already.
        """
        loaded = self._loaded
        return fitting_texts(
            self._dataset, loaded.tokenizer, labels, self._config, loaded.max_context
        )

    def predict_text_tokens(self, labels: IntArray) -> int:
        """Tokens that :meth:`score_texts` would forward."""
        with turn_of(self._loaded.model):
            plan = self.plan(labels)
        if self._shares:
            return plan.total_tokens
        return sum(len(plan.ids_before(leaf)) + len(leaf.scored) - 1 for leaf in plan.leaves)

    def score_texts(self, labels: IntArray) -> Scored:
        """Score the text of every example after each label.

        Args:
            labels: ``[n]``, those of the demonstrations and -1 for all others.

        Returns:
            ``[n, n_labels]`` float32: the sum of the log-probabilities of a text's tokens, divided
            by the root of their number (the mean over the labels), as sums of independent terms
            grow. Of the examples that are scored after the same context the mean is taken off for
            each label. Higher is more probable; only the differences within a row say anything.
        """
        with turn_of(self._loaded.model), torch.inference_mode():
            plan = self.plan(labels)
            if self._shares:
                require_exact_sharing(self._loaded, plan.longest_context)
                # A runner for this call alone: its keys and values are not needed any longer.
                runner = ModelRunner(self._loaded, int8=self._config.int8)
                totals, n_tokens = self._shared_prompts(plan, runner), plan.total_tokens
            else:
                totals, n_tokens = self._whole_prompts(plan)
        return Scored(calibrated_texts(totals, plan), n_tokens)

    def _whole_prompts(self, plan: TextPlan) -> tuple[FloatArray, int]:
        """Sums of log-probabilities, one prompt for each text and label, and tokens forwarded."""
        totals = self._no_totals()
        n_tokens = 0
        for leaf in plan.leaves:
            ids = plan.ids_before(leaf) + leaf.scored[:-1]
            scored = leaf.scored if leaf.before >= 0 else leaf.scored[1:]
            if not scored:
                continue
            input_ids = torch.tensor([ids], device=self._loaded.device)
            output = self._loaded.model.base_model(input_ids=input_ids, use_cache=False)
            states = output.last_hidden_state[0, -len(scored) :]
            found = self._head.own_logprobs(states, scored, plan.vocabulary)
            totals[leaf.row, leaf.label] = float(found.double().sum())
            n_tokens += len(ids)
        return totals, n_tokens

    def _no_totals(self) -> FloatArray:
        return np.zeros((len(self._dataset), len(self._dataset.label_space)))

    def _shared_prompts(self, plan: TextPlan, runner: ModelRunner) -> FloatArray:
        """Sums of log-probabilities, ``[n, n_labels]``; what texts share is forwarded once."""
        wanted = np.full(len(plan.ids), NONE, np.uint8)
        wanted[[leaf.before for leaf in plan.leaves if leaf.before >= 0]] = LAST
        wanted[[leaf.segment for leaf in plan.leaves if leaf.segment >= 0]] = ALL
        by_segment = {leaf.segment: leaf for leaf in plan.leaves if leaf.segment >= 0}
        firsts: dict[int, list[Leaf]] = {}
        for leaf in plan.leaves:
            firsts.setdefault(leaf.before, []).append(leaf)
        totals = self._no_totals()
        for segments, hidden in runner.stages(plan, plan.ids.__getitem__, wanted):
            rows: list[torch.Tensor] = []
            tokens: list[int] = []
            owners: list[Leaf] = []
            at = 0
            for segment in segments.tolist():
                size = n_returned(wanted[segment], plan.n_tokens[segment])
                states = hidden[at : at + size]
                at += size
                for leaf in firsts.get(segment, []):
                    rows.append(states[-1:])
                    tokens.append(leaf.scored[0])
                    owners.append(leaf)
                if segment in by_segment:
                    leaf = by_segment[segment]
                    rows.append(states)
                    tokens += leaf.scored[1:]
                    owners += [leaf] * size
            if not rows:
                continue
            found = self._head.own_logprobs(torch.cat(rows), tokens, plan.vocabulary)
            places = ([leaf.row for leaf in owners], [leaf.label for leaf in owners])
            np.add.at(totals, places, found.double().cpu().numpy())
        return totals


def calibrated_texts(totals: FloatArray, plan: TextPlan) -> ScoreArray:
    """Sums of log-probabilities on one scale, without a preference for a label, float32.

    Args:
        totals: ``[n, n_labels]``.
        plan: What they were scored by.
    """
    lengths = np.ones(totals.shape, np.float64)
    for leaf in plan.leaves:
        lengths[leaf.row, leaf.label] = len(leaf.scored)
    values = totals / np.sqrt(lengths.mean(axis=1, keepdims=True))
    values -= values.mean(axis=1, keepdims=True)
    for context in np.unique(plan.contexts):
        mine = plan.contexts == context
        values[mine] -= values[mine].mean(axis=0)
    return np.asarray(values, np.float32)
