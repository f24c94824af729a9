"""What a search saves without changing a single decision: repeats and draws of what is there."""

import json

import numpy as np
import pytest
from engine_cases import EXCLUSIVE, ONE_TRUE, coupled_scorer, group_graph, no_graph, noise_scorer

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.engine.native import make_engine
from icm_fast.types import Constraint, Dataset
from run_fakes import FakeScored, toy_dataset

STEPS = 500
TASKS = {
    "free": (no_graph(2), coupled_scorer),
    "exclusive": (group_graph(16, 4, EXCLUSIVE), noise_scorer),
    "paired": (group_graph(16, 2, ONE_TRUE), noise_scorer),
}


def dataset_of(graph):
    constraints = tuple(
        Constraint(int(i), int(j), tuple(tuple(bool(x) for x in row) for row in table))
        for (i, j), table in zip(*graph, strict=True)
    )
    plain = toy_dataset(16)
    return Dataset(plain.examples, plain.label_space, constraints, name="toy")


class Counting:
    fingerprint = "counting"

    def __init__(self, score):
        self._score, self.calls = score, 0

    def score(self, labels, queries=None):
        self.calls += 1
        return FakeScored(self._score(labels), 1)


def every_step(dataset, config, score):
    """The same engine, every ask answered anew: its events and the number of answers."""
    engine, events, n_asks = make_engine(config, dataset), [], 0
    while (ask := engine.ask()) is not None:
        engine.tell(score(ask.labels))
        events += engine.take_events()
        n_asks += 1
    return events, n_asks


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("preset", ["paper", "authors-code", "annealing"])
def test_remembered_scores_change_no_decision(name, preset, tmp_path):
    graph, scorer_of = TASKS[name]
    dataset, repeats = dataset_of(graph), 0
    for seed in range(5):
        config = SearchConfig(preset=preset, max_iterations=STEPS, seed=seed)
        score = scorer_of(16, 2, seed)
        events, n_asks = every_step(dataset, config, score)
        counting = Counting(score)
        folder = tmp_path / str(seed)
        icm_fast.search(dataset, model="x", config=config, scorer=counting, output_dir=folder)
        assert logged_events(folder) == json.loads(json.dumps(events))
        assert counting.calls <= n_asks
        repeats += n_asks - counting.calls
    if preset == "paper" and name != "free":
        assert repeats > 0


class Staged(Counting):
    """Scores one example after the other, asks after each, and counts those that were scored."""

    def __init__(self, score):
        super().__init__(score)
        self.n_rows = 0

    def score_rows(self, labels, rows, *, enough=None, priority=None):
        self.calls += 1
        examples = np.flatnonzero(rows)
        if priority is not None:
            examples = examples[np.argsort(priority[examples], kind="stable")]
        scores = np.full((len(labels), 2), np.nan, np.float32)
        for done, i in enumerate(examples, start=1):
            scores[i] = self._score(labels)[i]
            self.n_rows += 1
            if enough is not None and done < len(examples) and enough(scores):
                break
        return FakeScored(scores, int(np.isfinite(scores[:, 0]).sum()))

    def score(self, labels, queries=None):
        return self.score_rows(labels, np.ones(len(labels), np.bool_))


def decisions(events):
    """What was proposed and what became of it; a bound may stand in for a rejected utility."""
    kept = []
    for event in events:
        kept.append(dict(event))
        if kept[-1].pop("abandoned", False):
            assert not event["accepted"]
            assert event["utility_candidate"] < event["threshold"]
        if not event["accepted"]:
            kept[-1]["utility_candidate"] = "rejected"
    return kept


def logged_events(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def row_by_row(engine, ask, whole):
    """``whole``, or as many of its rows as show that it does not matter, the least likely first."""
    labelled = np.flatnonzero(ask.labels >= 0)
    part = np.full_like(whole, np.nan)
    for i in labelled[np.argsort(whole[labelled, ask.labels[labelled]], kind="stable")]:
        part[i] = whole[i]
        if engine.rejects(part):
            return part
    return whole


@pytest.mark.parametrize("name", ["exclusive", "paired"])
def test_options_of_the_fix_are_given_up_once_they_cannot_help(name):
    graph, scorer_of = TASKS[name]
    n_options = 0
    for seed in range(3):
        config = SearchConfig(preset="paper", max_iterations=STEPS, seed=seed)
        score = scorer_of(16, 2, seed)
        engine, events = make_engine(config, dataset_of(graph)), []
        while (ask := engine.ask()) is not None:
            scores = row_by_row(engine, ask, score(ask.labels))
            engine.tell(scores)
            new = engine.take_events()
            # Without a decision the move goes on: what was given up was an option.
            n_options += bool(np.isnan(scores).any()) and not new
            events += new
        assert decisions(events) == decisions(every_step(dataset_of(graph), config, score)[0])
    assert n_options > 0


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("saving", ["lazy_queries", "early_rejection"])
def test_savings_change_no_decision(name, saving, tmp_path):
    graph, scorer_of = TASKS[name]
    dataset = dataset_of(graph)
    rows, n_events = {True: 0, False: 0}, 0
    for seed in range(5):
        runs = {}
        for on in (True, False):
            settings = {"lazy_queries": False, "early_rejection": False, saving: on}
            config = SearchConfig(preset="paper", max_iterations=STEPS, seed=seed, **settings)
            scorer = Staged(scorer_of(16, 2, seed))
            folder = tmp_path / f"{seed}-{on}"
            result = icm_fast.search(
                dataset, model="x", config=config, scorer=scorer, output_dir=folder
            )
            assert np.isfinite(result.scores).all()
            made = decisions(logged_events(folder))
            runs[on] = made, result.labels.tolist(), result.scores.tolist()
            rows[on] += scorer.n_rows
        assert runs[True] == runs[False]
        n_events += len(runs[True][0])
    assert rows[True] < rows[False]
    assert n_events > 5 * 10


@pytest.mark.parametrize("name", TASKS)
def test_all_savings_together_resume_bit_for_bit(name, tmp_path):
    """Records of an interrupted search, cut after any of them, lead to the same files."""
    graph, scorer_of = TASKS[name]
    dataset = dataset_of(graph)
    config = SearchConfig(preset="paper", max_iterations=STEPS, seed=3)
    whole = tmp_path / "whole"
    n_calls = _search_until(dataset, config, scorer_of(16, 2, 3), whole, None)
    files = ("labels.jsonl", "events.jsonl", "evaluations.bin")
    expected = {name: (whole / name).read_bytes() for name in files}
    assert b'"abandoned": true' in expected["events.jsonl"] or name == "free"
    for stop in (1, 2, n_calls // 3, n_calls // 2, n_calls - 1):
        folder = tmp_path / f"stopped-{stop}"
        with pytest.raises(KeyboardInterrupt):
            _search_until(dataset, config, scorer_of(16, 2, 3), folder, stop)
        _search_until(dataset, config, scorer_of(16, 2, 3), folder, None)
        assert {name: (folder / name).read_bytes() for name in files} == expected


def _search_until(dataset, config, score, folder, stop):
    """Search; interrupted at call ``stop`` of the scorer. Returns the number of calls."""

    class Interrupted(Staged):
        def score_rows(self, *args, **kwargs):
            if self.calls == stop:
                raise KeyboardInterrupt
            return super().score_rows(*args, **kwargs)

    scorer = Interrupted(score)
    icm_fast.search(dataset, model="x", config=config, scorer=scorer, output_dir=folder)
    return scorer.calls


@pytest.mark.parametrize("name", TASKS)
def test_a_null_draw_proposes_the_state_itself(name):
    """Scoring a null draw would tell the utility that is known: it can only be accepted."""
    graph, scorer_of = TASKS[name]
    config = SearchConfig(preset="paper", max_iterations=STEPS, seed=1)
    score = scorer_of(16, 2, 1)
    engine = make_engine(config, dataset_of(graph))
    n_moves = 0
    while (ask := engine.ask()) is not None:
        before, iteration = engine.labels, engine.iteration
        engine.tell(score(ask.labels))
        events = engine.take_events()
        for event in events:
            n_moves += event["move"] not in {"init", "done"}
            if not event["accepted"]:
                assert event["utility_after"] == event["utility_before"]
        if not events:
            assert np.array_equal(engine.labels, before)
            assert engine.iteration == iteration
    events = every_step(dataset_of(graph), config, score)[0]
    # Every iteration is a move or a null draw.
    assert n_moves + sum(event["null_draws"] for event in events) == engine.iteration
