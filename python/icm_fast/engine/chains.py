"""Several searches side by side, behind the protocol of one engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from icm_fast.config import SearchConfig
from icm_fast.engine.native import make_engine
from icm_fast.types import Dataset, IntArray, ScoreArray

_SEED_STEP = 0x9E3779B97F4A7C15
"""Distance of the chains' seeds, so that searches with neighbouring seeds share no chain."""


def make_search_engine(config: SearchConfig, dataset: Dataset) -> Any:
    """The engine of a search: a native one, or several behind one face with ``chains`` > 1.

    Raises:
        ValueError: If the constraints do not fit the data set.
    """
    if config.chains == 1:
        return make_engine(config, dataset)
    return Chains(config, dataset)


def chain_config(config: SearchConfig, chain: int) -> SearchConfig:
    """Settings of one chain: the first has the search's own, the others seeds of their own."""
    if chain == 0:
        return config
    seed = (config.seed + chain * _SEED_STEP) % 2**63
    return replace(config, seed=seed, start="random", initial_labels=())


class Chains:
    """Engines that take turns; what one has asked for, the others find in the store.

    The contexts follow the seed of the whole search, so that all chains mean the same utility by
    the same labels.
    """

    def __init__(self, config: SearchConfig, dataset: Dataset) -> None:
        self._engines = [
            make_engine(chain_config(config, c), dataset) for c in range(config.chains)
        ]
        self._turn = 0

    def ask(self) -> Any:
        """What the chain whose turn it is needs; None when all are over."""
        for step in range(len(self._engines)):
            chain = (self._turn + step) % len(self._engines)
            if (ask := self._engines[chain].ask()) is not None:
                self._turn = chain
                return ask
        return None

    def tell(self, scores: ScoreArray) -> None:
        """Answer that chain; the next one is on."""
        self._current.tell(scores)
        self._turn += 1

    def take_events(self) -> list[dict[str, Any]]:
        """Events of all chains since the last call, each with the number of its chain."""
        return [
            {"chain": chain, **event}
            for chain, engine in enumerate(self._engines)
            for event in engine.take_events()
        ]

    def rejects(self, scores: ScoreArray) -> bool:
        """As of the chain whose turn it is."""
        return bool(self._current.rejects(scores))

    @property
    def may_reject(self) -> bool:
        """As of the chain whose turn it is."""
        return bool(self._current.may_reject)

    def stop(self, reason: str) -> None:
        """End all chains."""
        for engine in self._engines:
            engine.stop(reason)

    @property
    def _current(self) -> Any:
        return self._engines[self._turn % len(self._engines)]

    @property
    def _best(self) -> Any:
        """The chain with the most labelled, then the best result; the first of equals."""
        return max(
            self._engines, key=lambda e: (int((e.result_labels >= 0).sum()), e.result_utility)
        )

    @property
    def labels(self) -> IntArray:
        """Labels ``[n]`` of the chain whose turn it is."""
        labels: IntArray = self._current.labels
        return labels

    @property
    def scores(self) -> ScoreArray:
        """Scores ``[n, n_labels]`` of the same chain."""
        scores: ScoreArray = self._current.scores
        return scores

    @property
    def utility(self) -> float:
        """Utility of the same chain."""
        return float(self._current.utility)

    @property
    def temperature(self) -> float:
        """Temperature of the same chain."""
        return float(self._current.temperature)

    @property
    def n_labelled(self) -> int:
        """Labelled examples of the chain that has the fewest."""
        return min(int(engine.n_labelled) for engine in self._engines)

    @property
    def iteration(self) -> int:
        """Steps of all chains."""
        return sum(int(engine.iteration) for engine in self._engines)

    @property
    def n_accepted(self) -> int:
        """Accepted proposals of all chains."""
        return sum(int(engine.n_accepted) for engine in self._engines)

    @property
    def reason(self) -> str:
        """Why the best chain ended."""
        return str(self._best.reason)

    @property
    def result_labels(self) -> IntArray:
        """Labels ``[n]`` of the best chain."""
        labels: IntArray = self._best.result_labels
        return labels

    @property
    def result_scores(self) -> ScoreArray:
        """Scores ``[n, n_labels]`` of the best chain."""
        scores: ScoreArray = self._best.result_scores
        return scores

    @property
    def result_utility(self) -> float:
        """Utility of the best chain."""
        return float(self._best.result_utility)
