"""A whole search on free scores: the time of the engine alone."""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from icm_fast.config import PRESETS, SearchConfig
from icm_fast.engine.native import make_engine
from icm_fast.types import Dataset, Example, LabelSpace


def claims(n: int) -> Dataset:
    examples = tuple(Example(f"e{i}", f"Claim {i}:") for i in range(n))
    return Dataset(examples, LabelSpace((" False", " True")))


def scores_of(labels: np.ndarray, seed: int) -> np.ndarray:
    """Log-probabilities that depend on the whole labelling, ``[n, 2]`` float32."""
    draws = np.random.default_rng([seed, *(labels + 1)]).normal(size=(len(labels), 2))
    draws[:, 1] += np.where(np.arange(len(labels)) % 2, 2.0, -2.0)
    return (draws - np.logaddexp(draws[:, :1], draws[:, 1:])).astype(np.float32)


def search(dataset: Dataset, config: SearchConfig) -> int:
    engine = make_engine(config, dataset)
    n_asks = 0
    while (ask := engine.ask()) is not None:
        engine.tell(scores_of(ask.labels, config.seed))
        n_asks += 1
    return n_asks


@pytest.mark.parametrize("preset", PRESETS)
def test_search(benchmark: BenchmarkFixture, preset: str) -> None:
    config = SearchConfig(preset=preset, max_evaluations=200)
    n_asks = benchmark(search, claims(64), config)
    assert n_asks > 1
    benchmark.extra_info["evaluations"] = n_asks
