"""What speaks against the labels of a search, and where it is said."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.engine.concerns import Rival, find_rival, one_sided, search_concerns
from icm_fast.engine.progress import Quiet
from icm_fast.evaluation.report import run_report
from icm_fast.runs.finished import read_run
from icm_fast.runs.score_log import ScoredLabelling
from icm_fast.types import Constraint
from run_fakes import FakeScored, FakeScorer, toy_dataset

CONFIG = SearchConfig()


def kinds(labels, utility=1.0, dataset=None, rival=None, config=CONFIG):
    labels = np.array(labels, np.int32)
    dataset = dataset or toy_dataset(len(labels))
    return [c.kind for c in search_concerns(labels, utility, dataset, config, rival)]


def test_sound_labels_raise_no_concern():
    assert kinds([0, 1] * 10) == []


@pytest.mark.parametrize(("n_ones", "suspicious"), [(0, True), (1, False), (19, False), (20, True)])
def test_one_sided_labels(n_ones, suspicious):
    labels = [1] * n_ones + [0] * (20 - n_ones)
    assert kinds(labels) == (["one-sided"] if suspicious else [])


def test_one_sided_counts_labelled_examples_and_names_the_label():
    labels = np.array([1] * 39 + [0] + [-1] * 100, np.int32)
    concern = one_sided(labels, toy_dataset(140))
    assert "39 of 40 labels are ' yes'" in concern.text
    assert "objective=calibrated" in concern.text
    assert one_sided(labels[:9], toy_dataset(9)) is None


def claims(n_texts):
    prompts = [
        f"Review: text {k}\nClaim: it is {word}\nThis claim is"
        for k in range(n_texts)
        for word in ("good", "bad")
    ]
    dataset = toy_dataset(len(prompts))
    examples = tuple(
        replace(example, prompt=prompt)
        for example, prompt in zip(dataset.examples, prompts, strict=True)
    )
    return replace(dataset, examples=examples)


def test_labels_that_follow_from_the_claim_alone_are_one_sided_too():
    labels = np.array([1, 0] * 12, np.int32)
    assert kinds(labels, dataset=claims(12)) == ["one-sided"]
    concern = one_sided(labels, claims(12))
    assert concern.text.startswith("24 of 24 labels follow from the lines that many prompts share")
    labels[:4] = [0, 1, 0, 1]  # of two texts it is the other way round
    assert kinds(labels, dataset=claims(12)) == []
    labels[:4] = -1
    assert one_sided(labels, claims(12)) is not None


def test_labels_that_predict_nothing():
    labels = [0, 1] * 10
    assert kinds(labels, utility=-0.5) == ["no-signal"]
    assert kinds(labels, utility=0.0) == ["no-signal"]
    # Log-probabilities are always negative.
    assert kinds(labels, utility=-0.5, config=SearchConfig(objective="mean_logprob")) == []


def test_violated_constraints_are_no_lack_of_signal():
    dataset = toy_dataset(20)
    pairs = tuple(Constraint(i, i + 1, ((1, 1), (1, 0)), "exclusive") for i in range(19))
    dataset = type(dataset)(dataset.examples, dataset.label_space, constraints=pairs, name="toy")
    labels = [1, 1] + [0, 1] * 9
    assert kinds(labels, utility=-0.5, dataset=dataset) == ["violations"]
    assert kinds(labels, utility=-1.0, dataset=dataset) == ["no-signal", "violations"]


def test_unlabelled_examples():
    assert kinds([0, 1] * 10 + [-1]) == ["unlabelled"]


def test_a_rival_as_good_as_the_result():
    labels = [0, 1] * 10
    assert kinds(labels, utility=10.0, rival=Rival(9.0, 0.4)) == ["rival"]
    # 0.05 nats per example are 2.5 at alpha 50.
    assert kinds(labels, utility=10.0, rival=Rival(7.5, 0.4)) == []


def test_the_rival_is_the_best_other_answer():
    labels = np.array([0, 1] * 4, np.int32)
    near, flipped, half = labels.copy(), 1 - labels, labels.copy()
    near[0] = 1
    half[:4] = 1 - half[:4]
    incomplete = flipped.copy()
    incomplete[0] = -1
    scores = np.log(np.full((8, 2), 0.5, np.float32))

    def scored(y, gain):
        better = scores.copy()
        better[np.arange(8), np.maximum(y, 0)] += np.float32(gain)
        return ScoredLabelling(y.astype(np.int32), better, 1)

    candidates = [
        scored(near, 0.5),
        scored(incomplete, 0.5),
        scored(flipped, 0.2),
        scored(half, 0.3),
    ]
    config = SearchConfig(objective="mean_logprob")
    rival = find_rival(labels, toy_dataset(8), config, candidates)
    assert rival.differs == 0.5
    assert rival.utility == pytest.approx(50 * (np.log(0.5) + 0.3))
    assert find_rival(labels, toy_dataset(8), config, candidates[:2]) is None


class OneSided(FakeScorer):
    def score(self, labels, queries=None):
        self.calls += 1
        return FakeScored(np.log(np.tile(np.float32([0.9, 0.1]), (self.shape[0], 1))), 1)


class Listener(Quiet):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def test_a_collapse_is_told_during_the_search_and_after_it(tmp_path):
    config, listener = SearchConfig(preset="paper", max_iterations=400), Listener()
    result = icm_fast.search(
        toy_dataset(20),
        model="fake",
        config=config,
        scorer=OneSided(20),
        output_dir=tmp_path,
        progress=listener,
    )
    assert [concern.kind for concern in result.concerns] == ["one-sided"]
    assert listener.warnings == [result.concerns[0].text]
    summary = json.loads(Path(tmp_path, "summary.json").read_text())
    assert summary["concerns"] == [
        {"kind": "one-sided", "text": result.concerns[0].text},
    ]
    assert "## Concerns\n\n- one-sided: 20 of 20 labels are ' no'" in run_report(read_run(tmp_path))


def test_a_sound_report_has_no_section_of_concerns(tmp_path):
    result = icm_fast.search(
        toy_dataset(20), model="fake", config=CONFIG, scorer=FakeScorer(20), output_dir=tmp_path
    )
    assert result.concerns == ()
    assert "Concerns" not in run_report(read_run(tmp_path))
