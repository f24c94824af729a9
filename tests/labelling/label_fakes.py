"""A model that needs no weights: scores depend on a prompt and on its context, on nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from icm_fast.config import SearchConfig
from icm_fast.scoring.elsewhere import ModelElsewhere
from icm_fast.types import UNLABELLED, Dataset, ScoreArray
from run_fakes import FakeLoaded, FakeScored, install_fake_model

GOOD = ("good", "great", "fine", "warm")
BAD = ("bad", "dull", "poor", "cold")
BIAS = 1.0
"""How much the model prefers the first label word whatever the text says."""


def rows(n: int, column: str = "review") -> list[dict[str, object]]:
    """Texts of two kinds in turn, all different: even ones are bad, odd ones good."""
    return [
        {"n": i, column: f"a {(BAD, GOOD)[i % 2][i // 2 % 4]} film, part {i}"} for i in range(n)
    ]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")


class TextScorer:
    """Prefers the last label for good words and the first for bad ones, with a bias and noise.

    The noise of an example depends on its prompt and on the set of the *other* labelled examples,
    as with a model, and on no example that is scored beside it.
    """

    fingerprint = "text-scorer"

    def __init__(self, dataset: Dataset, delay: float = 0.0) -> None:
        self._prompts = [example.prompt for example in dataset.examples]
        self._n_labels = len(dataset.label_space)
        self._delay = delay

    def score(
        self, labels: Sequence[int] | np.ndarray, queries: np.ndarray | None = None
    ) -> FakeScored:
        time.sleep(self._delay)
        state = np.asarray(labels)
        shown = [
            _number(f"{prompt}|{label}") if label != UNLABELLED else 0
            for prompt, label in zip(self._prompts, state.tolist(), strict=True)
        ]
        whole = sum(shown)
        scores = np.full((len(state), self._n_labels), np.nan, np.float32)
        for i, prompt in enumerate(self._prompts):
            if queries is None or queries[i]:
                scores[i] = self._one(prompt, whole - shown[i])
        return FakeScored(scores, self.predict_tokens(state, queries))

    def _one(self, prompt: str, context: int) -> ScoreArray:
        rng = np.random.Generator(np.random.Philox(_number(f"{prompt}|{context}")))
        logits = 0.3 * rng.normal(size=self._n_labels)
        logits[0] += BIAS
        logits[-1] += 1.5 * any(word in prompt for word in GOOD)
        logits[0] += 1.5 * any(word in prompt for word in BAD)
        return (logits - np.logaddexp.reduce(logits)).astype(np.float32)

    def predict_tokens(self, labels: Any, queries: Any = None) -> int:
        return sum(map(len, self._prompts))


def install(monkeypatch: pytest.MonkeyPatch, delay: float = 0.0) -> Any:
    """Replace the modules of models and scorers; returns what counts loads."""
    seen = install_fake_model(monkeypatch)

    def make_scorer(loaded: FakeLoaded | ModelElsewhere, dataset: Dataset, config: Any) -> Any:
        if isinstance(loaded, ModelElsewhere):
            return loaded.scorer(dataset, config)
        scorer = TextScorer(dataset, delay)
        seen.scorers.append(scorer)
        return scorer

    monkeypatch.setattr(sys.modules["icm_fast.scoring.factory"], "make_scorer", make_scorer)
    return seen


needs_fixed_labels = pytest.mark.skipif(
    "fixed_labels" not in {field.name for field in dataclasses.fields(SearchConfig)},
    reason="this version's search cannot hold labels fixed",
)
