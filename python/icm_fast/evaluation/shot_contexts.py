"""Evidence for the labels of all examples after a few of them, one labelling after another."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.evaluation.many_shot import UNBOUNDED, calibrate, local_scorer, longest_prompt
from icm_fast.types import UNLABELLED, BoolArray, Dataset, FloatArray, IntArray

if TYPE_CHECKING:
    from icm_fast.scoring.models import ScoringModel
    from icm_fast.scoring.protocol import MakeScorer


class ShotContexts:
    """Scores the examples of a data set after those of them that carry a label.

    Args:
        dataset: The examples.
        model: A model in this process or on a server, opened.
        config: Settings of the scorer; all demonstrations are shown, whatever they say.
        make_scorer: Replaces ``icm_fast.scoring.factory.make_scorer``.

    Attributes:
        n_tokens: Tokens forwarded so far.

    Raises:
        InputError: The data do not fit the model.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: ScoringModel,
        config: SearchConfig,
        make_scorer: MakeScorer | None = None,
    ) -> None:
        self.n_tokens = 0
        self._dataset = dataset
        self._model = model
        self._config = replace(config, context_order="tree", context_demonstrations=0)
        self._make = make_scorer or local_scorer
        self._longest = longest_prompt([e.prompt for e in dataset.examples], model.tokenizer)
        unbounded = replace(self._config, context_limit=UNBOUNDED)
        self._scorer = self._make(model, dataset, unbounded)

    def evidence(self, labels: IntArray, queries: BoolArray | None = None) -> FloatArray:
        """Log-probabilities minus the log of their mean, ``[n, n_labels]``; NaN if not queried.

        An example that carries a label is scored after the others that do.

        Args:
            labels: ``[n]``, -1 for all but the demonstrations.
            queries: ``[n]``, the examples to score; all by default.

        Raises:
            InputError: The demonstrations do not fit the context of the model.
        """
        shown = np.flatnonzero(labels != UNLABELLED).tolist()
        # The data set as a whole may exceed the context; what one context holds may not.
        held = list(dict.fromkeys([*shown, self._longest]))
        self._make(self._model, self._dataset.subset(held), self._config)
        scored = self._scorer.score(labels, queries)
        self.n_tokens += int(scored.n_tokens)
        asked = np.ones(len(labels), np.bool_) if queries is None else queries
        scores = np.asarray(scored.scores, dtype=np.float32)[asked]
        if not np.isfinite(scores).all():
            raise InputError("the model returned NaN log-probabilities; use dtype float32")
        evidence = np.full((len(labels), scores.shape[1]), np.nan)
        evidence[asked] = calibrate(scores)
        return evidence
