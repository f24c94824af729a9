"""Synthetic searches: constraint graphs, deterministic scorers and a driver for both engines."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from icm_fast import _core
from icm_fast.config import ADDED_SETTINGS, SearchConfig
from icm_fast.engine.native import engine_settings
from reference import ReferenceEngine

Scorer = Callable[[np.ndarray], np.ndarray]
ENGINES = (_core.Engine, ReferenceEngine)

# Searches that begin with few labels, whatever the preset.
RANDOM_START = {"start": "random", "prior_weight": 0.0}

FORMER_AUTHORS_CODE = {
    "preset": "authors-code",
    "cooling_clock": "accepted",
    "fix_both_false": False,
    **ADDED_SETTINGS,
}
"""What the preset ``authors-code`` was up to version 0.2."""

EXCLUSIVE = ((1, 1), (1, 0))  # not both label 1
ONE_TRUE = ((0, 1), (1, 0))


def equal_table(n_labels: int) -> np.ndarray:
    return np.eye(n_labels, dtype=np.uint8)


def random_graph(
    rng: np.random.Generator, n: int, n_labels: int, n_pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Random pairs with random tables, at least one label pair allowed in most of them."""
    pairs = np.array(
        [sorted(rng.choice(n, 2, replace=False)) for _ in range(n_pairs)], dtype=np.int32
    ).reshape(-1, 2)
    tables = (rng.random((n_pairs, n_labels, n_labels)) < 0.6).astype(np.uint8)
    return pairs, tables


def group_graph(n: int, size: int, table: Any) -> tuple[np.ndarray, np.ndarray]:
    """Consecutive groups of ``size`` examples, all pairs of a group under one table."""
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n) if i // size == j // size]
    tables = np.array([table] * len(pairs), dtype=np.uint8)
    return np.array(pairs, dtype=np.int32).reshape(-1, 2), tables


def no_graph(n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((0, 2), np.int32), np.zeros((0, n_labels, n_labels), np.uint8)


def noise_scorer(n: int, n_labels: int, seed: int) -> Scorer:
    """Scores that have nothing to do with each other: multiples of 1/64, the same everywhere."""

    def score(labels: np.ndarray) -> np.ndarray:
        key = zlib.crc32(np.asarray(labels, dtype="<i4").tobytes(), seed)
        ints = np.random.default_rng(key).integers(1, 256, (n, n_labels))
        return (-ints / 64).astype(np.float32)

    return score


def coarse_scorer(n: int, n_labels: int, seed: int) -> Scorer:
    """Scores of -1 and -2 only, so that utilities tie often."""
    noise = noise_scorer(n, n_labels, seed)
    return lambda labels: (-1 - (noise(labels) < -3)).astype(np.float32)


def coupled_scorer(n: int, n_labels: int, seed: int) -> Scorer:
    """Scores that depend on the other labels through integer couplings: there is an optimum."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_labels, n)
    noise = rng.integers(-12, 13, (n, n_labels))

    def score(labels: np.ndarray) -> np.ndarray:
        labels = np.asarray(labels)
        shown = labels >= 0
        right = shown & (labels == truth)
        logits = noise.astype(np.float64).copy()
        for i in range(n):
            votes = int(right.sum() - right[i]) - int((shown & ~right).sum() - (shown & ~right)[i])
            logits[i, truth[i]] += 8 * votes
        return ((logits - logits.max(axis=1, keepdims=True) - 4) / 64).astype(np.float32)

    return score


@dataclass(frozen=True)
class Case:
    """One search problem."""

    n: int
    n_labels: int
    pairs: np.ndarray
    tables: np.ndarray
    scorer: Scorer
    config: SearchConfig = field(default_factory=SearchConfig)

    def start(self, engine: type = _core.Engine) -> Any:
        return engine(
            self.n, self.n_labels, self.pairs, self.tables, **engine_settings(self.config)
        )

    def utility(self, labels: np.ndarray) -> float:
        return _core.utility(
            labels,
            self.scorer(labels),
            self.pairs,
            self.tables,
            str(self.config.objective),
            self.config.alpha,
            self.config.violation_weight,
        )

    def violations(self, labels: np.ndarray) -> int:
        return _core.count_violations(labels, self.pairs, self.tables)


def run_steps(case: Case, engine: Any) -> Iterator[dict[str, Any]]:
    """Answer every ask and yield the events as they come."""
    yield from engine.take_events()
    while (ask := engine.ask()) is not None:
        engine.tell(case.scorer(ask.labels))
        yield from engine.take_events()


def run_search(case: Case, engine: type = _core.Engine) -> tuple[Any, list[dict[str, Any]]]:
    """Run a search to its end; return the engine and all its events."""
    machine = case.start(engine)
    return machine, list(run_steps(case, machine))


def apply_changes(labels: np.ndarray, event: dict[str, Any]) -> np.ndarray:
    """Return the labels after an event, checking what the event says was there before."""
    labels = labels.copy()
    if event["accepted"]:
        for example, before, after in event["changes"]:
            assert labels[example] == before
            labels[example] = after
    return labels
