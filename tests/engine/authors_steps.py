"""Recorded steps of the authors' code, and engines that are led to take the same ones.

The record is numbers: their functions (repository of arXiv 2506.10139, commit d6260a9) with a
formula in place of the model. ``log_odds`` is that formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.engine.native import engine_settings

Record = dict[str, Any]
Scorer = Callable[[np.ndarray], np.ndarray]

HOPELESS = -50.0
"""Log-probability that no repair survives."""


def read_labels(text: str) -> np.ndarray:
    """``01-`` as False, True, unlabelled."""
    return np.array(["01".find(letter) for letter in text], np.int32)


def write_labels(labels: Any) -> str:
    """The same the other way."""
    return "".join("-" if y < 0 else str(int(y)) for y in labels)


@dataclass(frozen=True)
class Stub:
    """One recorded set: examples, rules, and what the formula says of them."""

    n: int
    pairs: np.ndarray
    tables: np.ndarray
    group: tuple[int, ...]
    bias: np.ndarray
    couplings: np.ndarray

    def with_bias(self, example: int, bias: int | None, unit: float) -> Stub:
        """The same with another bias of one example."""
        changed = self.bias.copy()
        if bias is not None:
            changed[example] = bias * unit
        return Stub(self.n, self.pairs, self.tables, self.group, changed, self.couplings)

    def log_odds(self, labels: np.ndarray) -> np.ndarray:
        """Log-odds ``[n]`` of True of each example under the labels of the others."""
        return self.bias + self.couplings @ np.where(labels < 0, 0, 2 * labels - 1)

    def scores(self, labels: np.ndarray) -> np.ndarray:
        """Log-probabilities of False and True, ``[n, 2]`` float32."""
        return from_log_odds(self.log_odds(labels))

    def engine(self, engine: type, **settings: Any) -> Any:
        """An engine with the preset ``authors-code``."""
        config = SearchConfig(preset="authors-code", **settings)
        return engine(self.n, 2, self.pairs, self.tables, **engine_settings(config))


def from_log_odds(odds: np.ndarray) -> np.ndarray:
    """Log-probabilities of False and True, ``[n, 2]`` float32."""
    return np.stack([-np.logaddexp(0, odds), -np.logaddexp(0, -odds)], axis=1).astype(np.float32)


def make_stub(record: Record, unit: float) -> Stub:
    """A recorded set; its rules follow from kind, groups and keys."""
    group, key, n = record["group"], record["key"], record["n"]
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n) if group[i] == group[j]]
    other = ((0, 1), (1, 0)) if record["kind"] == "alpaca" else ((1, 1), (1, 0))
    tables = [((1, 0), (0, 1)) if key[i] == key[j] else other for i, j in pairs]
    return Stub(
        n,
        np.array(pairs, np.int32),
        np.array(tables, np.uint8),
        tuple(group),
        np.array(record["b"]) * unit,
        np.array(record["W"]) * unit,
    )


def held(stub: Stub, engine: type, labels: np.ndarray, scores: np.ndarray, seed: int) -> Any:
    """An engine in the state of these labels, contradictions and all, told these scores of it."""
    machine = stub.engine(
        engine, start="given", initial_labels=tuple(labels.tolist()), group_weight=1, seed=seed
    )
    while not machine.take_events():
        asked = machine.ask().labels
        is_state = (asked == labels).all()
        machine.tell(scores if is_state else _hopeless(asked))
    return machine


def _hopeless(labels: np.ndarray) -> np.ndarray:
    return np.where(np.arange(2) == labels[:, None], HOPELESS, 0.0).astype(np.float32)


def _leading(stub: Stub, labels: np.ndarray, example: int, label: int) -> np.ndarray:
    """Scores of a state, of its true utility, under which the example prefers the label.

    Where the example has another label, no other labelled example disagrees.
    """
    odds = stub.log_odds(labels)
    if labels[example] >= 0:
        signed = np.where(labels < 0, 0, np.where(labels == 1, odds, -odds))
        n_others = int((labels >= 0).sum()) - 1
        agreement = abs(signed.sum()) + 1.0
        odds = np.where(labels == 1, agreement, -agreement)
        disagreement = signed.sum() - n_others * agreement
        assert disagreement < 0, "a single labelled example cannot disagree at this utility"
        odds[example] = disagreement if labels[example] == 1 else -disagreement
    else:
        odds[example] = 3.0 if label == 1 else -3.0
    return from_log_odds(odds)


def outcome_of_new_label(
    stub: Stub, engine: type, labels: np.ndarray, example: int, label: int, seed: int
) -> np.ndarray | None:
    """What the fix makes of a new label; None if the draw of this seed is of another example."""
    machine = held(stub, engine, labels, _leading(stub, labels, example, label), seed)
    asked = machine.ask()
    while asked is not None:
        new = np.flatnonzero((labels < 0) & (asked.labels >= 0)).tolist()
        is_lookup = getattr(asked, "is_lookup", False)
        if not is_lookup and new != ([example] if labels[example] < 0 else []):
            return None
        machine.tell(
            _leading(stub, labels, example, label) if is_lookup else stub.scores(asked.labels)
        )
        if events := machine.take_events():
            after = labels.copy()
            for i, _, y in events[0]["changes"]:
                after[i] = y
            return after
        asked = machine.ask()
    return None
