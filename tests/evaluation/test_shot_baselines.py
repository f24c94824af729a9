"""Few-shot after random labels, and balanced bootstrapping: a made-up scorer, a tiny model."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.evaluation.baselines import (
    N_CONTEXTS,
    N_SHOTS,
    balanced_bootstrapping,
    balanced_shots,
    random_shot_labels,
)
from icm_fast.evaluation.many_shot import calibrate, many_shot, predict
from icm_fast.evaluation.metrics import consistency
from icm_fast.scoring.factory import make_scorer
from icm_fast.scoring.protocol import Scored
from icm_fast.tasks.constraints import Asymmetric, compile_rules
from icm_fast.types import Dataset, Example, LabelSpace
from tiny_models import SINGLE, byte_tokenizer, one_thread, reviews, tiny_loaded  # noqa: F401

N = 60
TRUTH = np.random.default_rng(7).permutation(np.arange(N) % 2).astype(np.int32)
MODEL = SimpleNamespace(name="made up", tokenizer=byte_tokenizer())


def examples(n=N, n_labels=2):
    rows = tuple(Example(str(i), f"Row {i} is") for i in range(n))
    return Dataset(rows, LabelSpace(tuple(f" kind{y}" for y in range(n_labels))))


class Scorers:
    """Makes scorers whose evidence is the truth and noise; demonstrations make it clearer.

    Prefers the first label, so that a calibrated argmax is of more use than a plain one.
    """

    def __init__(self, noise=1.5, clear=0.0):
        self.noise, self.clear = noise, clear
        self.seen: list[np.ndarray] = []
        self.asked: list[np.ndarray | None] = []
        self.sizes: list[int] = []

    def __call__(self, _model, dataset, config):
        self.sizes.append(len(dataset))
        assert (config.context_order, config.context_demonstrations) == ("tree", 0)
        return SimpleNamespace(score=lambda *a: self._score(dataset, *a))

    def _score(self, dataset, labels, queries=None):
        assert len(labels) == len(dataset) == N
        self.seen.append(np.array(labels))
        self.asked.append(queries)
        shown = labels >= 0
        right = float((labels == TRUTH)[shown].mean()) - 0.5 if shown.any() else 0.0
        drawn = np.random.default_rng([len(self.seen)]).normal(0, self.noise, N)
        tilt = (2 * TRUTH - 1) * (1.0 + self.clear * right) + drawn
        odds = np.stack([1.5 - tilt / 2, tilt / 2], axis=1)
        scores = (odds - np.logaddexp.reduce(odds, axis=1, keepdims=True)).astype(np.float32)
        if queries is not None:
            scores[~queries] = np.nan
        return Scored(scores, 10)


def right(labels):
    return float((labels == TRUTH).mean())


CONFIG = SearchConfig(seed=3)


def test_random_labels_are_balanced_and_their_rows_are_predicted_after_others():
    scorers = Scorers()
    found = random_shot_labels(examples(), MODEL, CONFIG, make_scorer=scorers)
    first, second = scorers.seen
    for state, asked in zip(scorers.seen, scorers.asked, strict=True):
        assert np.bincount(state[state >= 0]).tolist() == [N_SHOTS // 2] * 2
        assert (asked == (state < 0)).all()
    assert not ((first >= 0) & (second >= 0)).any()
    assert found.n_tokens == 20
    # By hand: each row after the context that it is not in, calibrated over the rows outside it.
    expected = np.empty(N, np.int32)
    again = Scorers()
    scorer = again(MODEL, examples(), CONFIG)
    for state, rows in ((first, first < 0), (second, first >= 0)):
        outside = state < 0
        evidence = np.full((N, 2), np.nan)
        evidence[outside] = calibrate(scorer.score(state).scores[outside])
        expected[rows] = evidence[rows].argmax(1)
    assert found.labels.tolist() == expected.tolist()
    assert found.labels.dtype == np.int32
    others = random_shot_labels(examples(), MODEL, replace(CONFIG, seed=4), make_scorer=Scorers())
    assert others.labels.tolist() != found.labels.tolist()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_examples(n):
    loaded, dataset = tiny_loaded("llama"), reviews(SINGLE, n)
    found = random_shot_labels(dataset, loaded, CONFIG)
    assert set(found.labels.tolist()) <= {0, 1}
    assert len(found.labels) == n
    assert len(balanced_bootstrapping(dataset, loaded, CONFIG).labels) == n


def test_random_shots_are_those_of_the_scorer():
    loaded, dataset = tiny_loaded("llama"), reviews(SINGLE)
    found = random_shot_labels(dataset, loaded, CONFIG)
    seen = []

    def noted(*arguments):
        scorer = make_scorer(*arguments)

        def score(labels, queries=None):
            seen.append((labels, queries))
            return scorer.score(labels, queries)

        return SimpleNamespace(score=score)

    again = random_shot_labels(dataset, loaded, CONFIG, make_scorer=noted)
    assert again.labels.tolist() == found.labels.tolist()
    assert again.n_tokens == found.n_tokens
    scorer = make_scorer(loaded, dataset, CONFIG)
    assert found.n_tokens == sum(scorer.predict_tokens(*each) for each in seen)
    assert [int((labels >= 0).sum()) for labels, _ in seen] == [4, 4]


def test_shots_are_balanced_and_the_surest_are_drawn_most():
    labels = np.array([0] * 10 + [1] * 40 + [2] * 3)
    sure = np.linspace(0.1, 5, 53)
    evidence = np.zeros((53, 3))
    evidence[np.arange(53), labels] = sure
    evidence[0, 0] = -1.0  # a label that its own evidence speaks against is the least sure
    drawn = [balanced_shots(labels, evidence, np.random.default_rng(s), 12) for s in range(400)]
    for shots in drawn:
        assert np.bincount(shots[shots >= 0]).tolist() == [4, 4, 3]
        assert (shots == labels)[shots >= 0].all()
    often = np.mean([shots >= 0 for shots in drawn], axis=0)
    assert often[0] < often[3] < often[9]
    assert often[10:20].mean() < 0.5 * often[40:50].mean()
    # Sizes that the labels do not divide are shared out by chance, and half of all is the most.
    counts = np.sum([np.bincount(s[s >= 0], minlength=3) for s in drawn], axis=0)
    assert counts[0] == counts[1]
    uneven = [balanced_shots(labels, evidence, np.random.default_rng(s), 4) for s in range(400)]
    taken = np.mean([np.bincount(s[s >= 0], minlength=3) for s in uneven], axis=0)
    assert np.abs(taken - 4 / 3).max() < 0.1
    few = balanced_shots(labels[5:15], evidence[5:15], np.random.default_rng(0), 16)
    assert (few >= 0).sum() == 5


def test_rounds_of_balanced_bootstrapping():
    scorers = Scorers(clear=4.0)
    found = balanced_bootstrapping(examples(), MODEL, CONFIG, make_scorer=scorers)
    assert found.n_tokens == 10 * len(scorers.seen) == 10 * (1 + 2 * N_CONTEXTS)
    assert (scorers.seen[0] == -1).all()
    zero_shot = calibrate(Scorers()(MODEL, examples(), CONFIG).score(scorers.seen[0]).scores)
    labels = zero_shot.argmax(1)
    for k, shots in enumerate(scorers.seen[1:]):
        assert np.bincount(shots[shots >= 0]).tolist() == [N_SHOTS // 2] * 2
        if k < N_CONTEXTS:
            assert (shots == labels)[shots >= 0].all()
    # Contexts differ, and those of the second round show labels of the first.
    assert len({shots.tobytes() for shots in scorers.seen}) == 1 + 2 * N_CONTEXTS
    second = scorers.seen[1 + N_CONTEXTS :]
    assert any((shots != labels)[shots >= 0].any() for shots in second)
    assert right(labels) < 0.85
    assert right(found.labels) > right(labels) + 0.1


def test_zero_shot_evidence_counts_in_the_last_round():
    # Contexts that say nothing at all: only what zero-shot says is left.
    class Nothing(Scorers):
        def _score(self, dataset, labels, queries=None):
            scored = super()._score(dataset, labels, queries)
            silent = np.full_like(scored.scores, np.log(0.5))
            return scored if (labels < 0).all() else Scored(silent, scored.n_tokens)

    one = balanced_bootstrapping(examples(), MODEL, CONFIG, rounds=0, make_scorer=Nothing())
    found = balanced_bootstrapping(examples(), MODEL, CONFIG, make_scorer=Nothing())
    assert 0 < one.labels.sum() < N
    assert found.labels.tolist() == one.labels.tolist()


@pytest.mark.parametrize(("most", "rounds"), [(1, 0), (11, 1), (50, 1), (51, 2), (500, 5)])
def test_no_round_starts_beyond_the_tokens(most, rounds):
    scorers = Scorers()
    found = balanced_bootstrapping(
        examples(), MODEL, CONFIG, rounds=5, max_tokens=most, make_scorer=scorers
    )
    assert found.n_tokens == 10 * (1 + rounds * N_CONTEXTS)


def test_labels_keep_the_constraints():
    rows = tuple(Example(str(i), f"Row {i} is", group=str(i // 2)) for i in range(N))
    space = LabelSpace((" kind0", " kind1"))
    dataset = Dataset(rows, space, compile_rules(rows, space, [Asymmetric()]))
    scorers = Scorers()
    found = balanced_bootstrapping(dataset, MODEL, CONFIG, make_scorer=scorers)
    assert consistency(found.labels, dataset.constraints) == 1.0
    free = balanced_bootstrapping(examples(), MODEL, CONFIG, make_scorer=Scorers())
    assert consistency(free.labels, dataset.constraints) < 1.0
    # Those that are shown keep them, too.
    for shots in scorers.seen[1:]:
        assert not ((shots[::2] == shots[1::2]) & (shots[::2] >= 0)).any()


def test_no_round_gives_the_calibrated_zero_shot_labels():
    loaded, dataset = tiny_loaded("llama"), reviews(SINGLE)
    found = balanced_bootstrapping(dataset, loaded, CONFIG, rounds=0)
    plain = many_shot(None, None, dataset, model=loaded)
    assert found.labels.tolist() == predict(plain.scores, calibrated=True).tolist()
    assert found.n_tokens == plain.n_tokens
    one, two = (balanced_bootstrapping(dataset, loaded, CONFIG, rounds=2) for _ in range(2))
    assert one.labels.tolist() == two.labels.tolist()
    assert one.n_tokens == two.n_tokens > found.n_tokens


def test_data_beyond_the_context_are_labelled_if_a_context_fits():
    rows = tuple(Example(str(i), f"Row {i} is") for i in range(80))
    dataset = Dataset(rows, LabelSpace(SINGLE))
    loaded = tiny_loaded("llama")
    with pytest.raises(InputError, match="the largest n that fits"):
        make_scorer(loaded, dataset, CONFIG)
    for bounded in (CONFIG, replace(CONFIG, context_demonstrations=4)):
        for label in (random_shot_labels, balanced_bootstrapping):
            found = label(dataset, loaded, bounded)
            assert set(found.labels.tolist()) <= {0, 1}
    small = replace(CONFIG, context_limit=60)
    for label in (random_shot_labels, balanced_bootstrapping):
        with pytest.raises(InputError, match="the limit is 60"):
            label(dataset, loaded, small)
