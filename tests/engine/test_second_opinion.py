"""A bootstrap after a search from other labels: whether both find the same."""

import json
from dataclasses import replace

import numpy as np
import pytest

import icm_fast
from icm_fast.config import PRESETS, SearchConfig
from icm_fast.engine.concerns import LEAST_OPINION, other_opinion
from icm_fast.engine.doctor import cost
from icm_fast.engine.verdict import FEWEST_LABELS, agreement_above_chance
from icm_fast.types import Constraint
from run_fakes import FakeScored, FakeScorer, run_bytes, toy_dataset

N = 24
TRUTH = np.arange(N) % 2
RIGHT, WRONG = tuple(TRUTH.tolist()), tuple((1 - TRUTH).tolist())


class Follows(FakeScorer):
    """Knows each example, and takes its labels to mean whatever a longer context has them mean.

    Where most demonstrations carry the wrong label, it predicts the wrong one with more certainty
    than it has of examples alone: right and wrong labels predict themselves equally well.
    """

    fingerprint = "follows-1"

    def __init__(self, stop_at: int = 0) -> None:
        super().__init__(N)
        self.stop_at = stop_at

    def score(self, labels, queries=None):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        shown = labels >= 0
        turned = shown.any() and (labels[shown] != TRUTH[shown]).mean() > 0.5
        certainty = 3.0 if shown.any() else 1.0
        logits = np.zeros((N, 2))
        logits[np.arange(N), 1 - TRUTH if turned else TRUTH] = certainty + 0.01 * np.arange(N)
        scores = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)
        if queries is not None:
            scores[~queries] = np.nan
        return FakeScored(scores, self.predict_tokens(labels, queries))


def found(scorer=None, dataset=None, folder=None, **settings):
    config = SearchConfig(seed=1, **settings)
    return icm_fast.search(
        dataset or toy_dataset(N),
        model="fake",
        scorer=scorer or Follows(),
        config=config,
        output_dir=folder,
    )


def kinds(result):
    return [concern.kind for concern in result.concerns]


def test_labels_that_only_the_start_speaks_for_are_judged_worse():
    wrong = found(start="given", initial_labels=WRONG)
    assert wrong.labels.tolist() == list(WRONG)
    assert kinds(wrong)[0] == "second-opinion"
    assert "start=bootstrap" in wrong.concerns[0].text
    assert "'second-opinion'" in " ".join(wrong.verdict.reasons)
    assert wrong.verdict.level == "reject"
    right = found(start="given", initial_labels=RIGHT)
    assert right.labels.tolist() == list(RIGHT)
    assert (kinds(right), right.verdict.level) == ([], "trust")


def test_it_changes_no_label_and_costs_a_bootstrap():
    start = {"start": "given", "initial_labels": WRONG}
    one, other = found(**start), found(**start, second_opinion=False)
    assert one.labels.tolist() == other.labels.tolist()
    assert np.array_equal(one.scores, other.scores)
    assert (one.utility, one.n_iterations) == (other.utility, other.n_iterations)
    assert "second-opinion" not in kinds(other)
    assert one.n_tokens_forwarded > other.n_tokens_forwarded


def test_only_the_default_asks_for_it_and_not_from_a_bootstrap():
    asks = {p for p in PRESETS if SearchConfig(preset=p, start="random").second_opinion}
    assert asks == {"default"}
    assert not SearchConfig().second_opinion
    assert not SearchConfig(start="bootstrap").second_opinion
    assert found().n_evaluations == found(second_opinion=True).n_evaluations
    for second in (False, True):
        config = SearchConfig(start="random", second_opinion=second)
        assert SearchConfig.from_mapping(config.to_dict()) == config
    annealed = found(preset="annealing", second_opinion=True)
    assert (kinds(annealed), annealed.verdict.level) == ([], "trust")


def test_a_bound_of_tokens_leaves_it_out():
    start = {"start": "given", "initial_labels": WRONG, "second_opinion": True}
    whole = found(**start)
    before = found(**{**start, "second_opinion": False}).n_tokens_forwarded
    for bound in (before, before + 30):  # reached before it, and within it
        bounded = found(**start, max_tokens=bound)
        assert "second-opinion" not in kinds(bounded)
        assert bounded.n_tokens_forwarded < whole.n_tokens_forwarded
        assert bounded.labels.tolist() == list(WRONG)
    assert kinds(found(**start, max_tokens=whole.n_tokens_forwarded + 1))[0] == "second-opinion"


def test_it_resumes_wherever_it_stopped(tmp_path):
    start = {"start": "given", "initial_labels": WRONG}
    scorer = Follows()
    found(scorer, folder=tmp_path / "whole", **start)
    n_searched = Follows()
    found(n_searched, **start, second_opinion=False)
    assert n_searched.calls < scorer.calls
    for calls in range(1, scorer.calls + 1):
        folder = tmp_path / str(calls)
        with pytest.raises(KeyboardInterrupt):
            found(Follows(calls), folder=folder, **start)
        rest = Follows()
        found(rest, folder=folder, **start)
        assert rest.calls == scorer.calls - calls + 1
        assert run_bytes(folder) == run_bytes(tmp_path / "whole")
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["concerns"][0]["kind"] == "second-opinion"
    again = Follows()
    found(again, folder=tmp_path / "whole", **start)
    assert again.calls == 0


def test_rules_and_known_labels_hold_for_it():
    exclusive = ((False, True), (True, False))
    pairs = tuple(Constraint(k, k + 1, exclusive) for k in range(0, N, 2))
    dataset = replace(toy_dataset(N), constraints=pairs)
    known = tuple(int(y) if k < 2 else -1 for k, y in enumerate(TRUTH))
    initial = tuple(known[:2]) + WRONG[2:]
    result = found(
        dataset=dataset, start="given", initial_labels=initial, fixed_labels=known, max_iterations=0
    )
    assert result.labels[:2].tolist() == [0, 1]
    assert result.labels[2:].tolist() == list(WRONG[2:])
    assert kinds(result)[0] == "second-opinion"


def test_agreement_is_above_chance_and_of_free_examples():
    assert agreement_above_chance(TRUTH, TRUTH) == 1.0
    assert agreement_above_chance(TRUTH, 1 - TRUTH) == -1.0
    half = np.where(np.arange(N) < N // 2, TRUTH, 1 - TRUTH)
    assert agreement_above_chance(TRUTH, half) == pytest.approx(0.0)
    known = np.where(np.arange(N) < N // 2, -1, TRUTH)
    assert agreement_above_chance(TRUTH, half, known) == 1.0
    few = np.where(np.arange(N) < FEWEST_LABELS - 1, TRUTH, -1)
    assert agreement_above_chance(few, TRUTH) is None
    assert other_opinion(None) is None
    assert other_opinion(LEAST_OPINION) is None
    assert other_opinion(LEAST_OPINION - 0.01).kind == "second-opinion"


def test_doctor_counts_it():
    settings = {"preset": "annealing", "start": "given", "initial_labels": WRONG}
    without, with_it = SearchConfig(**settings), SearchConfig(**settings, second_opinion=True)
    told = [
        cost(Follows(), toy_dataset(N), config, rate=1.0).fields
        for config in (without, with_it, SearchConfig())
    ]
    for figure, final in (("tokens", "tokens_per_evaluation"), ("evaluations", None)):
        bootstrap = told[2][figure] - (1 if final is None else told[2][final])
        assert told[1][figure] == told[0][figure] + bootstrap
