import numpy as np
import pytest

from icm_fast.errors import InputError
from icm_fast.scoring.adapter import fingerprint_of, lift
from run_fakes import FakeScored, FakeScorer, toy_dataset

LABELS = np.array([0, 1, -1, 1], np.int32)
SOME = np.array([True, False, False, True])


class LabelsOnly:
    """The least that a search takes: no queries, no fingerprint."""

    def score(self, labels):
        return FakeScored(np.full((4, 2), -0.7), 3)


class Everything(FakeScorer):
    def __init__(self):
        super().__init__(4)
        self.heard = []

    def score_rows(self, labels, rows, *, enough=None, priority=None):
        self.heard.append(("rows", rows.tolist(), enough, priority))
        return self.score(labels, rows)

    def score_canonical(self, labels):
        self.heard.append("canonical")
        return self.score(labels)

    def visit(self, labels):
        self.heard.append("visit")


def test_what_a_simple_scorer_lacks_is_made_of_its_score():
    scorer = lift(LabelsOnly(), toy_dataset(4))
    scorer.visit(LABELS)
    for scored in (
        scorer.score(LABELS),
        scorer.score_rows(LABELS, SOME, enough=lambda scores: True),
        scorer.score_canonical(LABELS),
    ):
        assert (scored.scores.astype(np.float32) == np.float32(-0.7)).all()
        assert scored.n_tokens == 3
    assert scorer.score_rows(LABELS, SOME).scores.dtype == np.float32


def test_what_a_scorer_has_is_used():
    given = Everything()
    scorer = lift(given, toy_dataset(4))
    scorer.visit(LABELS)
    scorer.score_canonical(LABELS)
    scored = scorer.score_rows(LABELS, SOME)
    assert given.heard == ["visit", "canonical", ("rows", SOME.tolist(), None, None)]
    assert np.isnan(scored.scores).all(axis=1).tolist() == (~SOME).tolist()


def test_queries_are_passed_on():
    scores = lift(FakeScorer(4), toy_dataset(4)).score(LABELS, SOME).scores
    assert np.isfinite(scores).all(axis=1).tolist() == SOME.tolist()


def test_a_whole_labelling_is_checked_whole():
    class Nan(FakeScorer):
        def score(self, labels, queries=None):
            scored = super().score(labels)
            scored.scores[1] = np.nan
            return scored

    with pytest.raises(InputError, match="NaN log-probabilities for example 'e1'"):
        lift(Nan(4), toy_dataset(4)).score_rows(LABELS, SOME)


def test_a_scorer_without_a_fingerprint_is_known_by_the_models_name():
    assert fingerprint_of(FakeScorer(4), "gpt") == "fake-1"
    assert fingerprint_of(LabelsOnly(), "gpt") == "gpt"
