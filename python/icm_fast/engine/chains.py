"""Several searches side by side that act as one engine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from icm_fast.config import SearchConfig
from icm_fast.engine.native import make_engine
from icm_fast.engine.protocol import SearchEngine
from icm_fast.types import Dataset, IntArray, ScoreArray

if TYPE_CHECKING:
    from icm_fast._core import Ask

_SEED_STEP = 0x9E3779B97F4A7C15
"""Distance between the chains' seeds, so that searches with neighbouring seeds share no chain."""


def make_search_engine(config: SearchConfig, dataset: Dataset) -> SearchEngine:
    """The engine of a search: a native one, or several that act as one with ``chains`` > 1.

    Raises:
        ValueError: If the constraints do not fit the data set.
    """
    if config.chains == 1:
        return make_engine(config, dataset)
    return Chains(config, dataset)


def chain_config(config: SearchConfig, chain: int) -> SearchConfig:
    """Settings of one chain: the first keeps those of the search, the others get other seeds."""
    if chain == 0:
        return config
    seed = (config.seed + chain * _SEED_STEP) % 2**63
    return replace(config, seed=seed, start="random", initial_labels=())


class Chains:
    """Engines that take turns; scores that one has requested, the others find in the store.

    Contexts depend on the seed of the whole search, not of a chain, so that the same labels have
    the same utility in every chain.
    """

    def __init__(self, config: SearchConfig, dataset: Dataset) -> None:
        self._engines = [
            make_engine(chain_config(config, c), dataset) for c in range(config.chains)
        ]
        self._turn = 0

    def ask(self) -> Ask | None:
        """Return what the next chain needs that is not over; None when all are."""
        for step in range(len(self._engines)):
            chain = (self._turn + step) % len(self._engines)
            if (ask := self._engines[chain].ask()) is not None:
                self._turn = chain
                return ask
        return None

    def tell(self, scores: ScoreArray) -> None:
        """Answer that chain; then it is the next one's turn."""
        self._current.tell(scores)
        self._turn += 1

    def take_events(self) -> list[dict[str, object]]:
        """Events of all chains since the last call, each with the number of its chain."""
        return [
            {"chain": chain, **event}
            for chain, engine in enumerate(self._engines)
            for event in engine.take_events()
        ]

    def rejects(self, scores: ScoreArray) -> bool:
        """Same as for the chain whose turn it is."""
        return self._current.rejects(scores)

    @property
    def may_reject(self) -> bool:
        """Same as for the chain whose turn it is."""
        return self._current.may_reject

    def stop(self, reason: str) -> None:
        """End all chains."""
        for engine in self._engines:
            engine.stop(reason)

    @property
    def _current(self) -> SearchEngine:
        return self._engines[self._turn % len(self._engines)]

    @property
    def _best(self) -> SearchEngine:
        """The chain with the most labels, then the highest utility; the first on a tie."""
        return max(
            self._engines, key=lambda e: (int((e.result_labels >= 0).sum()), e.result_utility)
        )

    @property
    def labels(self) -> IntArray:
        """Labels ``[n]`` of the chain whose turn it is."""
        return self._current.labels

    @property
    def scores(self) -> ScoreArray:
        """Scores ``[n, n_labels]`` of the same chain."""
        return self._current.scores

    @property
    def utility(self) -> float:
        """Utility of the same chain."""
        return self._current.utility

    @property
    def temperature(self) -> float:
        """Temperature of the same chain."""
        return self._current.temperature

    @property
    def n_labelled(self) -> int:
        """Number of labelled examples in the chain that has the fewest."""
        return min(engine.n_labelled for engine in self._engines)

    @property
    def iteration(self) -> int:
        """Steps of all chains."""
        return sum(engine.iteration for engine in self._engines)

    @property
    def n_accepted(self) -> int:
        """Accepted proposals of all chains."""
        return sum(engine.n_accepted for engine in self._engines)

    @property
    def reason(self) -> str:
        """Why the best chain ended."""
        return self._best.reason

    @property
    def result_labels(self) -> IntArray:
        """Labels ``[n]`` of the best chain."""
        return self._best.result_labels

    @property
    def result_scores(self) -> ScoreArray:
        """Scores ``[n, n_labels]`` of the best chain."""
        return self._best.result_scores

    @property
    def result_utility(self) -> float:
        """Utility of the best chain."""
        return self._best.result_utility
