"""The preset ``authors-code`` takes the recorded steps of the authors' code, in both engines.

A part of the record is in tests/golden; the whole one is read where the authors' data are
(tests/conftest.py).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from authors_steps import (
    Record,
    Stub,
    from_log_odds,
    make_stub,
    outcome_of_new_label,
    read_labels,
    write_labels,
)
from engine_cases import ENGINES

from icm_fast import _core
from icm_fast.config import SearchConfig
from icm_fast.engine.native import engine_settings
from reference import ReferenceEngine

COMMITTED = Path(__file__).parent.parent / "golden" / "authors_steps.json"


class Steps:
    """A record with its sets."""

    def __init__(self, path: Path) -> None:
        self.record: Record = json.loads(path.read_text())
        self.unit = float(self.record["about"]["unit"])
        self.epsilon = float(self.record["about"]["epsilon"])
        self.stubs = {s["name"]: make_stub(s, self.unit) for s in self.record["sets"]}

    def cases(self, entry: str) -> Iterator[tuple[Stub, Record]]:
        for case in self.record[entry]:
            yield self.stubs[case["set"]], case


@pytest.fixture(scope="module", params=["committed", "whole"])
def steps(request: pytest.FixtureRequest) -> Steps:
    if request.param == "committed":
        return Steps(COMMITTED)
    shared: Path = request.getfixturevalue("shared_data")
    whole = shared.parent / "authors" / "steps.json"
    if not whole.is_file():
        pytest.skip(f"no recorded steps at {whole}")
    return Steps(whole)


def start_of(stub: Stub, engine: type, labels: str, seed: int = 0, **settings: object) -> object:
    """An engine after its start from the labels, told the formula's scores."""
    given = tuple(read_labels(labels).tolist())
    settings = {"max_iterations": 0, **settings}
    machine = stub.engine(engine, start="given", initial_labels=given, seed=seed, **settings)
    while (ask := machine.ask()) is not None:
        machine.tell(stub.scores(ask.labels))
    return machine


def distance(found: Counter[str], outcomes: list[tuple[str, int, float]]) -> float:
    """Total variation between what was found and the recorded probabilities."""
    total = found.total()
    return sum(abs(found[after] / total - chance) for after, _, chance in outcomes) / 2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_score_of_a_state(steps, engine):
    for stub, case in steps.cases("states"):
        labels = read_labels(case["labels"])
        machine = start_of(stub, engine, case["labels"], fix_rounds=0)
        assert machine.take_events()[0]["n_violations"] == case["contradictions"]
        assert machine.utility == pytest.approx(case["utility"], abs=0.01)
        # With their epsilon the record is met to its last digit.
        p = 1 / (1 + np.exp(-stub.log_odds(labels)))
        odds = np.log(p + steps.epsilon) - np.log(1 - p + steps.epsilon)
        signed = np.where(labels == 1, odds, -odds)[labels >= 0]
        assert signed.mean() == pytest.approx(case["mean_log_odds"], abs=1e-8)


@pytest.mark.parametrize("engine", ENGINES)
def test_b_fix_of_a_new_label(steps, engine):
    for stub, case in steps.cases("fixes"):
        outcomes = case["outcomes"]
        wanted = 5 if len(outcomes) == 1 else 60 if engine is _core.Engine else 12
        found: Counter[str] = Counter()
        for seed in range(4000):
            after = outcome_of_new_label(
                stub, engine, read_labels(case["labels"]), case["example"], case["label"], seed
            )
            if after is not None:
                found[write_labels(after)] += 1
            if found.total() == wanted:
                break
        assert found.total() == wanted, case
        assert set(found) <= {after for after, _, _ in outcomes}, case
        if wanted == 60:
            assert distance(found, outcomes) < 0.25, case


@pytest.mark.parametrize("engine", ENGINES)
def test_b_fix_of_a_start(steps, engine):
    n_seeds = 150 if engine is _core.Engine else 8
    for stub, case in steps.cases("start_fixes"):
        found = Counter(
            write_labels(start_of(stub, engine, case["labels"], seed).labels)
            for seed in range(n_seeds)
        )
        assert set(found) <= {after for after, _, _ in case["outcomes"]}, case
        if engine is _core.Engine:
            assert distance(found, case["outcomes"]) < 0.15, case
        if "sure_false" in case:
            ends = [[after[i] for i in case["sure_false"]] for after in found]
            assert ends == [["0", "0"]] * len(ends)


def test_c_temperatures_count_accepted_proposals(steps):
    recorded = dict(steps.record["temperatures"])
    schedule = SearchConfig(preset="authors-code")
    for accepted, temperature in recorded.items():
        value = schedule.initial_temperature / (1 + schedule.cooling * math.log(1 + accepted))
        assert max(schedule.min_temperature, value) == pytest.approx(temperature, abs=1e-12)
    stub = next(stub for name, stub in steps.stubs.items() if name.startswith("gsm8k-search"))
    met: set[int] = set()
    n_led_back = 0
    for engine in ENGINES:
        machine = stub.engine(engine, seed=1, alpha=0.5, max_iterations=400)
        accepted = -1  # the start is none
        while True:
            for event in machine.take_events():
                if accepted in recorded and event["move"] == "single":
                    assert event["temperature"] == pytest.approx(recorded[accepted], abs=1e-12)
                    met.add(accepted)
                accepted += event["accepted"]
                n_led_back += event["accepted"] and not event["changes"]
            if (ask := machine.ask()) is None:
                break
            machine.tell(stub.scores(ask.labels))
    assert {0, 1, 2, 3, 5, 8, 13, 20} <= met
    assert n_led_back > 0


def test_d_weights_of_the_draw(steps):
    for stub, case in steps.cases("draws"):
        labels = read_labels(case["labels"])
        oracle = start_of(stub, ReferenceEngine, case["labels"], fix_rounds=0)
        assert oracle._proposals._weights(tuple(labels.tolist())) == case["weights"]
        open_weights = np.where(labels < 0, case["weights"], 0)
        if len(set(open_weights[labels < 0])) < 2:
            continue
        drawn = [_first_unlabelled(stub, case["labels"], seed) for seed in range(40)]
        drawn = [example for example in drawn if example is not None]
        heavy = open_weights[drawn] == 100
        expected = open_weights[open_weights == 100].sum() / open_weights.sum()
        assert heavy.mean() >= expected - 0.2, case


def _first_unlabelled(stub: Stub, labels: str, seed: int) -> int | None:
    """The unlabelled example that is drawn first; None if a labelled one is."""
    given = read_labels(labels)
    machine = stub.engine(
        _core.Engine, start="given", initial_labels=tuple(given.tolist()), seed=seed, fix_rounds=0
    )
    machine.tell(stub.scores(given))
    while (ask := machine.ask()) is not None and ask.is_lookup:
        machine.tell(stub.scores(ask.labels))
    new = np.flatnonzero((given < 0) & (ask.labels >= 0))
    return int(new[0]) if len(new) else None


@pytest.mark.parametrize("engine", ENGINES)
def test_e_proposals(steps, engine):
    for stub, case in steps.cases("proposals"):
        example, labels = case["example"], read_labels(case["labels"])
        told = stub.with_bias(example, case.get("b_of_example"), steps.unit)
        odds = told.log_odds(labels)[example]
        assert odds == case["log_odds"]
        # The label that an example takes which is unlabelled beside another one.
        config = SearchConfig(
            preset="authors-code", start="given", initial_labels=(-1, 0), max_iterations=5000
        )
        none = np.zeros((0, 2), np.int32), np.zeros((0, 2, 2), np.uint8)
        machine = engine(2, 2, *none, **engine_settings(config))
        while machine.ask() is not None and (machine.ask().labels < 0).any():
            machine.tell(from_log_odds(np.array([odds, -3.0])))
        assert machine.ask().labels[0] == case["label"], case


@pytest.mark.parametrize("engine", ENGINES)
def test_f_starts_label_whole_groups(steps, engine):
    for case in steps.record["starts"]:
        size, n = case["group_size"], case["batch"]
        pairs = [(i, j) for i in range(n) for j in range(i + 1, n) if i // size == j // size]
        tables = np.ones((len(pairs), 2, 2), np.uint8)
        seen, profiles = set(), set()
        for seed in range(30):
            config = SearchConfig(preset="authors-code", n_initial=case["n_initial"], seed=seed)
            graph = np.array(pairs, np.int32), tables
            labels = engine(n, 2, *graph, **engine_settings(config)).ask().labels
            profiles.add(_profile(labels, size))
            seen.add(write_labels(labels))
            if case.get("fails"):  # theirs refuses an odd number, ours gives False one more
                assert Counter(labels.tolist()) == {-1: n - 7, 0: 4, 1: 3}
        if not case.get("fails"):
            batch = np.full(n, -1)
            batch[case["initial"]] = case["labels"]
            assert profiles == {_profile(batch, size)}
        assert len(seen) > 10


def _profile(labels: np.ndarray, size: int) -> tuple[tuple[int, ...], int]:
    """How many of each group are labelled, from the start of the group, and how many True."""
    members = labels.reshape(-1, size) >= 0
    counts = members.sum(axis=1)
    assert all(row[:count].all() for row, count in zip(members, counts, strict=True))
    return tuple(sorted(counts.tolist())), int((labels == 1).sum())


def finished(stub: Stub, labels: str, seed: int, iterations: int) -> tuple[float, int]:
    """Utility and contradictions of a search from recorded first labels."""
    machine = start_of(stub, _core.Engine, labels, seed, max_iterations=iterations)
    return machine.utility, machine.take_events()[-1]["n_violations"]


@pytest.mark.parametrize("kind", ["gsm8k", "alpaca"])
def test_searches_end_as_often_in_contradictions_and_as_high(steps, kind):
    record = steps.record["searches"][kind]
    runs = record["runs"]
    ends = [
        finished(steps.stubs[record["sets"][run[0]]], run[1], seed, record["iterations"])
        for seed, run in enumerate(runs)
    ]
    share = np.mean([violations > 0 for _, violations in ends])
    utility = np.mean([utility for utility, _ in ends])
    # Standard errors of theirs and ours together.
    p = record["share_contradictory"]
    spread = math.sqrt(p * (1 - p) * (1 / len(runs) + 1 / record.get("n_runs", len(runs))))
    assert len(ends) >= 100
    assert abs(share - p) < 3 * spread + 0.01
    assert abs(utility - record["mean_utility"]) < 2.0


def test_the_same_searches_of_the_former_preset_ended_otherwise(steps):
    """What the record can tell apart: the fix without the forced round and (False, False)."""
    record = steps.record["searches"]["gsm8k"]
    former = {
        "fix_pairs": "one",
        "fix_options": "allowed",
        "fix_forced": False,
        "fix_both_false": False,
    }
    violated = []
    for seed, run in enumerate(record["runs"]):
        stub = steps.stubs[record["sets"][run[0]]]
        machine = start_of(
            stub, _core.Engine, run[1], seed, max_iterations=record["iterations"], **former
        )
        violated.append(machine.take_events()[-1]["n_violations"] > 0)
    assert np.mean(violated) > record["share_contradictory"] + 0.1
