import json
import os
import signal

import numpy as np
import pytest

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.engine.progress import Quiet
from icm_fast.errors import InputError
from icm_fast.runs.labels import labels_lines
from run_fakes import FakeScored, FakeScorer, install_fake_model, run_bytes, toy_dataset

CONFIG = SearchConfig(preset="paper", max_evaluations=20, n_initial=4)


class Recorder(Quiet):
    def __init__(self):
        self.states = []

    def update(self, state):
        self.states.append(state)


def test_search_in_memory_labels_everything_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scorer = FakeScorer(10)
    result = icm_fast.search(toy_dataset(), model="fake", config=CONFIG, scorer=scorer)
    assert result.labels.dtype == np.int32
    assert result.labels.shape == (10,)
    assert (result.labels >= 0).all()
    assert result.scores.dtype == np.float32
    assert result.scores.shape == (10, 2)
    assert np.isfinite(result.utility)
    assert result.reason
    assert list(tmp_path.iterdir()) == []


def test_every_labelling_is_scored_once():
    scorer = FakeScorer(10)
    result = icm_fast.search(toy_dataset(), model="fake", config=CONFIG, scorer=scorer)
    assert result.n_evaluations == scorer.calls


def test_scores_belong_to_the_labels():
    scorer = FakeScorer(10)
    result = icm_fast.search(toy_dataset(), model="fake", config=CONFIG, scorer=scorer)
    assert np.array_equal(result.scores, scorer.score(result.labels).scores)


def test_default_config_and_three_labels():
    dataset = toy_dataset(6, (" a", " b", " c"))
    result = icm_fast.search(dataset, model="fake", scorer=FakeScorer(6, 3))
    assert set(result.labels.tolist()) <= {0, 1, 2}


def test_progress_sees_every_evaluation():
    shown = Recorder()
    result = icm_fast.search(
        toy_dataset(), model="fake", config=CONFIG, scorer=FakeScorer(10), progress=shown
    )
    assert len(shown.states) >= result.n_evaluations
    assert shown.states[-1].n_examples == 10
    assert shown.states[-1].n_labelled == 10


def test_run_folder_holds_labels_events_config_summary(tmp_path):
    folder = tmp_path / "deep" / "run"
    scorer = FakeScorer(10)
    result = icm_fast.search(
        toy_dataset(), model="fake", config=CONFIG, output_dir=folder, scorer=scorer
    )
    lines = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"e{i}" for i in range(10)]
    assert [line["label_index"] for line in lines] == result.labels.tolist()
    assert all(line["label"] == (" no", " yes")[line["label_index"]] for line in lines)
    stored = np.array([line["logprobs"] for line in lines], dtype=np.float32)
    assert np.array_equal(stored, result.scores)
    for line, row in zip(lines, result.scores, strict=True):
        y = line["label_index"]
        assert line["margin"] == pytest.approx(row[y] - row[1 - y], abs=1e-6)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["utility"] == result.utility
    assert summary["n_evaluations"] == result.n_evaluations
    assert summary["n_tokens_forwarded"] == result.n_tokens_forwarded
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert events[0]["move"] == "init"
    assert events[-1]["move"] == "done"


def test_finished_run_returns_at_once_without_the_model(tmp_path, monkeypatch):
    seen = install_fake_model(monkeypatch)
    first = icm_fast.search(toy_dataset(), model="fake", config=CONFIG, output_dir=tmp_path / "r")
    before = {p.name: p.read_bytes() for p in (tmp_path / "r").iterdir()}
    again = icm_fast.search(toy_dataset(), model="fake", config=CONFIG, output_dir=tmp_path / "r")
    assert seen.loads == 1
    assert len(seen.scorers) == 1
    assert np.array_equal(first.labels, again.labels)
    assert np.array_equal(first.scores, again.scores)
    assert first.n_tokens_forwarded == again.n_tokens_forwarded
    assert first.n_evaluations == again.n_evaluations
    assert {p.name: p.read_bytes() for p in (tmp_path / "r").iterdir()} == before


def test_another_name_of_the_same_model_resumes(tmp_path, monkeypatch):
    seen = install_fake_model(monkeypatch)
    for name in ("fake", "./fake"):
        icm_fast.search(toy_dataset(), model=name, config=CONFIG, output_dir=tmp_path / "r")
    assert seen.loads == 2


def test_loaded_model_pair_is_named_by_itself(monkeypatch):
    seen = install_fake_model(monkeypatch)
    result = icm_fast.search(toy_dataset(), model=(object(), object()), config=CONFIG)
    assert seen.loads == 1
    assert result.n_evaluations > 0


class Broken(FakeScorer):
    value = np.nan

    def score(self, labels, queries=None):
        scored = super().score(labels, queries)
        if self.calls == 3:
            scored.scores[2, 1] = self.value
        return scored


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (-np.inf, "infinite")])
def test_broken_numbers_name_the_example_and_stay_out_of_the_store(tmp_path, value, word):
    scorer = Broken(10)
    scorer.value = value
    with pytest.raises(InputError, match=f"{word} log-probabilities for example 'e2'.*float32"):
        icm_fast.search(
            toy_dataset(), model="fake", config=CONFIG, output_dir=tmp_path, scorer=scorer
        )
    good = FakeScorer(10)
    result = icm_fast.search(
        toy_dataset(), model="fake", config=CONFIG, output_dir=tmp_path, scorer=good
    )
    assert good.calls == result.n_evaluations - 2


def test_scores_of_the_wrong_shape_are_refused():
    class Flat(FakeScorer):
        def score(self, labels, queries=None):
            return FakeScored(np.zeros(3, np.float32), 1)

    with pytest.raises(InputError, match=r"shape \(3,\), expected \(10, 2\)"):
        icm_fast.search(toy_dataset(), model="fake", config=CONFIG, scorer=Flat(10))


@pytest.mark.usefixtures("interruptible")
def test_interrupt_leaves_a_resumable_folder(tmp_path):
    class Interrupting(FakeScorer):
        def score(self, labels, queries=None):
            if self.calls == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return super().score(labels, queries)

    def run(folder, scorer):
        return icm_fast.search(
            toy_dataset(), model="fake", config=CONFIG, output_dir=folder, scorer=scorer
        )

    run(tmp_path / "whole", FakeScorer(10))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", Interrupting(10))
    resumed = FakeScorer(10)
    result = run(tmp_path / "cut", resumed)
    assert resumed.calls == result.n_evaluations - 5
    assert run_bytes(tmp_path / "cut") == run_bytes(tmp_path / "whole")


def test_unlabelled_examples_have_no_label_and_no_margin():
    labels, scores = np.array([-1, 1], np.int32), np.zeros((2, 2), np.float32)
    first = json.loads(labels_lines(toy_dataset(2), labels, scores).splitlines()[0])
    assert first["label"] is None
    assert first["label_index"] == -1
    assert first["margin"] is None
    assert "confidence" not in first
    sure = np.array([0.0, 0.8125])
    lines = [
        json.loads(line) for line in labels_lines(toy_dataset(2), labels, scores, sure).splitlines()
    ]
    assert [line["confidence"] for line in lines] == [None, 0.8125]
