"""The authors' own functions beside ours, where a checkout of their repository is at hand.

``ICM_FAST_AUTHORS_CODE`` names the checkout (github.com/Jiaxin-Wen/Unsupervised-Elicitation, commit
d6260a9); without it everything here is skipped. None of their code is in this project. Their model
is replaced by the formula of the recorded steps.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from authors_steps import Stub, read_labels, write_labels
from test_authors_steps import COMMITTED, Steps, start_of

from icm_fast import _core
from icm_fast.config import SearchConfig

CHECKOUT = "ICM_FAST_AUTHORS_CODE"
EPSILON = 1e-5
OUTSIDE = (
    "core",
    "core.llm_api",
    "core.llm_api.llm",
    "core.utils",
    "datasets",
    "src.model_querying.prompt_creation",
    "src.model_querying.solution_extraction",
    "src.pipeline.pipeline",
    "src.tools.dataloaders",
    "src.tools.path_utils",
)
"""What their functions import and the stub stands in for: the API, prompts, files."""


@pytest.fixture(scope="module")
def theirs() -> Iterator[ModuleType]:
    checkout = os.environ.get(CHECKOUT)
    if not checkout:
        pytest.skip(f"name a checkout of the authors' repository in {CHECKOUT}")
    if not (Path(checkout) / "src/experiments/ICM.py").is_file():
        pytest.fail(f"{CHECKOUT}={checkout} holds no src/experiments/ICM.py")
    patch = pytest.MonkeyPatch()
    for name in OUTSIDE:
        patch.setitem(sys.modules, name, MagicMock())
    patch.syspath_prepend(checkout)
    try:
        yield importlib.import_module("src.experiments.ICM")
    finally:
        patch.undo()
        for name in [name for name in sys.modules if name.partition(".")[0] == "src"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def steps() -> Steps:
    return Steps(COMMITTED)


class TheirRun:
    """Their functions on one recorded set, with the formula for the model."""

    def __init__(self, theirs: ModuleType, stub: Stub, record: dict[str, Any]) -> None:
        self._theirs, self._stub, self._record = theirs, stub, record
        self._tools = importlib.import_module("src.experiments.ICM_tools")
        theirs.args = SimpleNamespace(model="stub", alpha=50.0)
        theirs.propose_consistencyfix = self._pipeline
        theirs.run_consistencyfix = self._pipeline

    def claims(self, labels: np.ndarray) -> dict[int, dict[str, Any]]:
        compares = self._record["kind"] == "alpaca"
        names = {0: "B>A", 1: "A>B"} if compares else {}
        return {
            i: {
                "uid": i,
                "label": None if y < 0 else int(y),
                "vanilla_label": 0,
                "consistency_id": self._record["group"][i],
                "consistency_key": names.get(self._record["key"][i], self._record["key"][i]),
            }
            for i, y in enumerate(labels.tolist())
        }

    def _pipeline(self, *_: object, assignment: dict[int, dict[str, Any]], **__: object) -> Any:
        """What their pipeline of prompts gives: contradictions, scores, the metric of both."""

        async def run() -> dict[str, Any]:
            labels = np.full(self._stub.n, -1)
            for i, claim in assignment.items():
                labels[i] = claim["label"]
            p = 1 / (1 + np.exp(-self._stub.log_odds(labels)))
            odds = np.log(p + EPSILON) - np.log(1 - p + EPSILON)
            scored = {i: {**claim, "score": odds[i]} for i, claim in assignment.items()}
            pairs = self._tools.pick_two_inconsistent_claims(scored)
            decisions = {k: {**pair, "score": 0} for k, pair in pairs.items()}
            metric = self._theirs.calculate_accuracy(scored, pairs)
            return {"decisions": decisions, "get_assign": scored, "evaluate": metric}

        return SimpleNamespace(run=run)

    def metric(self, labels: np.ndarray) -> dict[str, Any]:
        known = {k: v for k, v in self.claims(labels).items() if v["label"] is not None}
        coroutine = self._pipeline(assignment=known).run()
        with pytest.raises(StopIteration) as done:
            coroutine.send(None)
        metric: dict[str, Any] = done.value.value["evaluate"]
        return metric

    def fixed(self, labels: np.ndarray, metric: dict[str, Any], seed: int) -> str:
        random.seed(seed)
        after, _ = self._theirs.fix_inconsistency(
            self.claims(labels), metric, "test", 50.0, iter=0, K=10
        )
        return write_labels([-1 if c["label"] is None else c["label"] for c in after.values()])


@pytest.fixture
def run_of(theirs: ModuleType, steps: Steps) -> Callable[[str], TheirRun]:
    records = {record["name"]: record for record in steps.record["sets"]}
    return lambda name: TheirRun(theirs, steps.stubs[name], records[name])


def test_scores_of_states(theirs, steps, run_of):
    for stub, case in steps.cases("states"):
        metric = run_of(case["set"]).metric(read_labels(case["labels"]))
        machine = start_of(stub, _core.Engine, case["labels"], fix_rounds=0)
        assert theirs.get_energy(metric, 50.0) == pytest.approx(machine.utility, abs=0.01)
        assert metric["inconsistent_num"] == machine.take_events()[0]["n_violations"]


def test_temperatures(theirs):
    config = SearchConfig(preset="authors-code")
    for accepted in (0, 1, 5, 50, 3000):
        value = theirs.get_temperature(accepted, 10.0, 0.01, 0.99, schedule="log")
        ours = config.initial_temperature / (1 + config.cooling * np.log(1 + accepted))
        assert max(config.min_temperature, ours) == pytest.approx(value, abs=1e-12)


def test_fixes_of_starts_end_alike(steps, run_of):
    for stub, case in steps.cases("start_fixes"):
        labels, run = read_labels(case["labels"]), run_of(case["set"])
        theirs = Counter(run.fixed(labels, run.metric(labels), seed) for seed in range(60))
        ours = Counter(
            write_labels(start_of(stub, _core.Engine, case["labels"], seed).labels)
            for seed in range(60)
        )
        assert set(theirs) == set(ours), case
        distance = sum(abs(theirs[k] - ours[k]) for k in theirs) / 120
        assert distance < 0.3, case


def test_fixes_of_new_labels_end_as_recorded(theirs, steps, run_of):
    worst = {"train_prob": -1e6, "inconsistent_num": 100000}
    for _, case in steps.cases("fixes"):
        labels = read_labels(case["labels"])
        labels[case["example"]] = case["label"]
        found = {run_of(case["set"]).fixed(labels, dict(worst), seed) for seed in range(30)}
        assert found <= {after for after, _, _ in case["outcomes"]}, case
        assert found >= {after for after, _, chance in case["outcomes"] if chance > 0.3}, case
