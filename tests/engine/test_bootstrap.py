"""What a search of the preset `default` starts from."""

import dataclasses
import json

import numpy as np
import pytest

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.engine.bootstrap import (
    CONTEXTS_EACH,
    SHOTS,
    bootstrap,
    channel_weight,
    confident_half,
    round_contexts,
    unit,
)
from icm_fast.scoring.posterior import (
    calibrated_evidence,
    centred,
    mutual_information,
    view_evidence,
)
from icm_fast.scoring.shares import FEWEST_ROWS, expected_shares
from icm_fast.types import Constraint, Dataset, Example, LabelSpace
from run_fakes import FakeScorer, toy_dataset

N = 12


def evidence_of(*margins):
    """Evidence whose label is 1 where the margin is above 0."""
    return np.array([[0.0, m] for m in margins])


def free(n):
    return np.full(n, -1, np.int32)


def test_the_more_confident_half_of_each_label_is_shown():
    evidence = evidence_of(3.0, 1.0, 2.0, 0.5, -4.0, -1.0, -0.1)
    assert confident_half(evidence, free(7), ()).tolist() == [1, -1, 1, -1, 0, 0, -1]


def test_known_labels_are_shown_whatever_the_evidence():
    known = np.array([0, -1, -1], np.int32)
    assert confident_half(evidence_of(9.0, 1.0, 2.0), known, ()).tolist() == [0, -1, 1]


def test_what_is_shown_keeps_the_rules():
    one_true = Constraint(0, 1, ((False, True), (True, False)), "one is true")
    shown = confident_half(evidence_of(2.0, 1.0, 3.0, -3.0), free(4), (one_true,))
    assert shown.tolist() in ([-1, 0, 1, -1], [1, -1, 1, 0], [-1, -1, 1, 0], [-1, 0, 1, 0])
    assert not (shown[0] == shown[1] == 1)


class Asked:
    """Answers from a table of margins and notes what it is asked."""

    def __init__(self, alone, among):
        self.answers, self.labellings = (alone, among), []

    def __call__(self, labels, rows=None):
        self.labellings.append(labels.tolist())
        margins = self.answers[bool((labels >= 0).any())]
        return np.array([[0.0, m] for m in margins], np.float32)


def test_evidence_is_that_of_the_example_alone_and_the_mean_of_the_rounds():
    alone, among = (2.0, 1.0, -1.0, -2.0), (1.5, 2.5, -2.0, -3.0)
    asked = Asked(alone, among)
    found = bootstrap(toy_dataset(4), asked, shots=0, fixed=None, rounds=2).together
    tables = [np.array([[0.0, m] for m in margins], np.float32) for margins in (alone, among)]
    one, other = (unit(calibrated_evidence(table)) for table in tables)
    assert asked.labellings[:2] == [[-1] * 4, [1, -1, -1, 0]]
    ratio = found / (0.5 * one + other)
    assert ratio == pytest.approx(np.full((4, 2), ratio[0, 0]), rel=1e-4)
    sizes = [np.sqrt((centred(calibrated_evidence(table)) ** 2).mean()) for table in tables]
    assert np.sqrt((found**2).mean()) == pytest.approx(sum(sizes), rel=1e-4)


def test_a_view_that_is_sure_of_everything_counts_little():
    sure = np.array([[0.0, 9.0]] * 4, np.float32)
    telling = np.array([[0.0, m] for m in (2.0, 1.0, -1.0, -2.0)], np.float32)
    sizes = [np.sqrt((view_evidence(table) ** 2).mean()) for table in (sure, telling)]
    assert sizes[0] < 0.05 < sizes[1]
    assert sizes[1] ** 2 == pytest.approx(mutual_information(telling))


def test_a_round_shows_its_half_in_short_contexts_and_scores_each_example_after_others():
    rng = np.random.default_rng(5)
    shown = np.where(rng.random(80) < 0.5, rng.integers(0, 3, 80), -1).astype(np.int32)
    contexts = round_contexts(shown, 7)
    assert len(contexts) == -(-int((shown >= 0).sum()) // SHOTS)
    together = np.max([labels for labels, _ in contexts], axis=0)
    assert together.tolist() == shown.tolist()
    for labels, rows in contexts:
        assert 0 < (labels >= 0).sum() <= SHOTS
        assert not (rows & (labels >= 0)).any()
    n_each = np.sum([rows for _, rows in contexts], axis=0)
    assert set(n_each.tolist()) == {min(CONTEXTS_EACH, len(contexts) - 1), CONTEXTS_EACH} - {0}
    assert round_contexts(shown, 8)[0][0].tolist() != contexts[0][0].tolist()
    whole, every = round_contexts(shown, 7, shots=0)[0]
    assert whole.tolist() == shown.tolist()
    assert every.all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_smallest_data_sets_have_rounds(n):
    for shown in ([0] * n, [-1] * (n - 1) + [1]):
        contexts = round_contexts(np.array(shown, np.int32), 0)
        assert np.all(np.sum([rows for _, rows in contexts], axis=0) >= 1)
        assert not any((rows & (labels >= 0)).any() for labels, rows in contexts)


def test_the_evidence_of_a_round_is_the_mean_over_its_contexts():
    rng = np.random.default_rng(0)
    tables = {}

    def evaluate(labels, rows):
        table = tables.setdefault(labels.tobytes(), rng.normal(size=(20, 2)).astype(np.float32))
        return np.where(rows[:, None], table, np.nan)

    found = bootstrap(toy_dataset(20), evaluate, fixed=None, rounds=1, seed=2).together
    alone = view_evidence(tables[np.full(20, -1, np.int32).tobytes()])
    shown = confident_half(alone, free(20), ())
    total, count = np.zeros((20, 2)), np.zeros(20)
    for labels, rows in round_contexts(shown, 2):
        total[rows] += view_evidence(tables[labels.tobytes()][rows])
        count += rows
    both = 0.5 * unit(alone) + unit(total / count[:, None])
    assert found / both == pytest.approx(np.full((20, 2), found[0, 0] / both[0, 0]), rel=1e-4)


def test_a_half_that_was_shown_is_not_shown_again():
    asked = Asked((2.0, 1.0, -1.0, -2.0), (2.0, 1.0, -1.0, -2.0))
    bootstrap(toy_dataset(4), asked, shots=0, fixed=None, rounds=9)
    assert len(asked.labellings) == 2


def test_a_bound_of_tokens_ends_the_rounds():
    asked = Asked((2.0, 1.0, -1.0, -2.0), (1.5, 2.5, -2.0, -3.0))
    bootstrap(toy_dataset(4), asked, shots=0, fixed=None, rounds=9, enough=lambda: True)
    assert len(asked.labellings) == 1


def test_the_channel_is_asked_alone_and_in_every_other_round():
    asked, read = (
        Asked((2.0, 1.0, -1.0, -2.0), (1.5, 2.5, -2.0, -3.0)),
        Asked((1.0, 1.0, -1.0, -1.0), (3.0, 1.0, -1.0, -3.0)),
    )
    bootstrap(toy_dataset(4), asked, read=read, shots=0, fixed=None, rounds=3)
    nobody = [-1] * 4
    assert asked.labellings[0] == read.labellings[0] == nobody
    assert len(asked.labellings) + len(read.labellings) <= 2 + 3
    assert read.labellings[1] == [1, -1, -1, 0]
    assert all(labels != nobody for labels in asked.labellings[1:] + read.labellings[1:])


def test_the_channel_counts_as_much_as_it_agrees():
    margins = (2.0, 1.0, -1.0, -2.0)
    alone = unit(np.array([[0.0, m] for m in margins]), np.ones(4, np.bool_))

    def labels_with(*texts):
        read = Asked(texts, texts)
        return bootstrap(
            toy_dataset(4), Asked(margins, margins), read=read, shots=0, fixed=None, rounds=2
        ).together

    found = labels_with(1.0, -1.2, 1.2, -1.0)  # agrees about the surest, not about the others
    said = unit(np.array([[0.0, m] for m in (1.0, -1.2, 1.2, -1.0)]), np.ones(4, np.bool_))
    weight = channel_weight(float((alone * said).mean()), 4)
    assert 0 <= weight < 0.8
    expected = alone + weight * said
    assert found / expected == pytest.approx(np.full((4, 2), found[0, 1] / expected[0, 1]))
    assert labels_with(-2.0, -1.0, 1.0, 2.0).argmax(axis=1).tolist() == [1, 1, 0, 0]
    assert labels_with(2.0, -0.1, -1.0, -2.0).argmax(axis=1).tolist() == [1, 1, 0, 0]


def test_a_channel_that_says_nothing_or_the_opposite_has_no_weight():
    assert channel_weight(-0.9, 100) == channel_weight(0.0, 100) == channel_weight(0.2, 100) == 0.0
    assert channel_weight(0.4, 100) == channel_weight(1.0, 100) == 0.8
    assert 0.0 < channel_weight(0.3, 100) < 0.8
    assert channel_weight(0.37, 16) == 0.0  # as much is there by chance
    silent = Asked((0.0,) * 4, (0.0,) * 4)
    asked = [Asked((2.0, 1.0, -1.0, -2.0), (1.5, 2.5, -2.0, -3.0)) for _ in range(2)]
    found = bootstrap(toy_dataset(4), asked[0], read=silent, shots=0, fixed=None, rounds=1).together
    plain = bootstrap(toy_dataset(4), asked[1], shots=0, fixed=None, rounds=1).together
    assert found == pytest.approx(plain, rel=1e-6)


def test_a_bound_of_tokens_leaves_the_channel_out():
    read = Asked((1.0,) * 4, (1.0,) * 4)
    asked = Asked((2.0, 1.0, -1.0, -2.0), (1.5, 2.5, -2.0, -3.0))
    bootstrap(toy_dataset(4), asked, read=read, shots=0, fixed=None, rounds=9, enough=lambda: True)
    assert read.labellings == []


class Reading(FakeScorer):
    """Also says how probable texts are: noise around a hidden label."""

    def __init__(self, n, stop_at=None):
        super().__init__(n)
        self.texts = 0
        self.stop_at = stop_at

    def score_texts(self, labels):
        if self.texts == self.stop_at:
            raise KeyboardInterrupt
        self.texts += 1
        noise = np.random.default_rng(int((labels + 1).sum())).normal(size=self.shape)
        noise[np.arange(self.shape[0]), np.arange(self.shape[0]) * 7 % 5 % 2] += 2.0
        return type(super().score(labels))(noise.astype(np.float32), 5)


@pytest.mark.parametrize("stop_at", [0, 1])
def test_a_search_with_a_channel_resumes_to_the_same_bytes(tmp_path, stop_at):
    dataset, config = toy_dataset(N), SearchConfig(seed=3)

    def search(folder, scorer):
        return icm_fast.search(
            dataset, model="fake", scorer=scorer, config=config, output_dir=folder
        )

    whole = search(tmp_path / "whole", first := Reading(N))
    assert first.texts == 2
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "cut", Reading(N, stop_at))
    resumed = search(tmp_path / "cut", rest := Reading(N))
    assert (resumed.labels == whole.labels).all()
    assert resumed.n_tokens_forwarded == whole.n_tokens_forwarded
    for name in ("labels.jsonl", "events.jsonl", "evaluations.bin"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert rest.texts == 2 - stop_at
    again = search(tmp_path / "whole", idle := Reading(N))
    assert (again.labels == whole.labels).all()
    assert idle.texts == idle.calls == 0
    with pytest.raises(icm_fast.InputError, match="model"):  # it cannot read texts: another scorer
        search(tmp_path / "whole", FakeScorer(N))
    without = icm_fast.search(
        dataset, model="fake", scorer=(off := Reading(N)), config=SearchConfig(channel=False)
    )
    assert off.texts == 0
    assert without.n_tokens_forwarded != whole.n_tokens_forwarded


def test_texts_that_are_not_numbers_are_refused(tmp_path):
    class Nan(Reading):
        def score_texts(self, labels):
            found = super().score_texts(labels)
            found.scores[3] = np.nan
            return found

    with pytest.raises(icm_fast.InputError, match="NaN"):
        icm_fast.search(toy_dataset(N), model="fake", scorer=Nan(N), output_dir=tmp_path / "run")


def test_known_labels_do_not_count_in_the_mean():
    fixed = np.array([1, -1, -1, -1], np.int32)
    asked = Asked((9.0, 1.0, -1.0, 0.0), (9.0, 1.0, -1.0, 0.0))
    found = bootstrap(toy_dataset(4), asked, shots=0, fixed=fixed, rounds=1).together
    shares = np.exp(found[1:] / 2) / np.exp(found[1:] / 2).sum(axis=1, keepdims=True)
    assert shares.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.02)


def test_expected_shares_decide_what_is_shown():
    asked = Asked((0.5, 0.4, 0.3, 0.2, 0.1, -0.9), (0.0,) * 6)
    bootstrap(toy_dataset(6), asked, shots=0, fixed=None, rounds=1, shares=(0.02, 0.98))
    assert asked.labellings[1].count(0) == 0


def test_a_search_shows_halves_first_and_resumes_to_the_same_bytes(tmp_path):
    dataset, config = toy_dataset(N), SearchConfig(seed=3)

    class Stopped(FakeScorer):
        def score(self, labels, queries=None):
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().score(labels, queries)

    def search(folder, scorer):
        return icm_fast.search(
            dataset, model="fake", scorer=scorer, config=config, output_dir=folder
        )

    whole = search(tmp_path / "whole", FakeScorer(N))
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "cut", Stopped(N))
    resumed = search(tmp_path / "cut", FakeScorer(N))
    assert (resumed.labels == whole.labels).all()
    for name in ("labels.jsonl", "events.jsonl", "evaluations.bin"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    first = json.loads((tmp_path / "whole" / "events.jsonl").read_text().splitlines()[0])
    assert first["move"] == "init"
    assert first["n_labelled"] == N


def test_three_labels_and_groups():
    rows = tuple(Example(f"e{k}", f"text {k}", group=f"g{k // 2}") for k in range(8))
    different = tuple(tuple(a != b for b in range(3)) for a in range(3))
    rules = tuple(Constraint(k, k + 1, different, "different") for k in range(0, 8, 2))
    dataset = Dataset(rows, LabelSpace((" a", " b", " c")), rules)
    found = icm_fast.search(dataset, model="fake", scorer=FakeScorer(8, 3), config=SearchConfig())
    assert all(found.labels[k] != found.labels[k + 1] for k in range(0, 8, 2))


def two_bells(n, share, seed=0, distance=3.0):
    """Margins of which the given share lies around ``distance``, the rest around its negative."""
    rng = np.random.default_rng(seed)
    sign = np.where(np.arange(n) < round(share * n), 1.0, -1.0)
    return sign * distance / 2 + rng.normal(size=n) * 0.7, sign > 0


@pytest.mark.parametrize("share", [0.1, 0.2, 0.85])
def test_shares_that_the_evidence_shows_plainly_are_met(share):
    margins, truth = two_bells(160, share)
    asked = Asked(tuple(margins), tuple(margins))
    labels = bootstrap(toy_dataset(160), asked, fixed=None, rounds=2).together.argmax(axis=1)
    assert (labels == truth).mean() > 0.95
    assert labels.mean() == pytest.approx(share, abs=0.04)


def expected(margins, *others):
    """What views of two labels with these margins let expect."""
    return expected_shares([evidence_of(*view) for view in (margins, *others)])


def labels_by(margins):
    return expected(margins).of(evidence_of(*margins)).argmax(axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_equal_shares_stay_equal(seed):
    margins, truth = two_bells(128, 0.5, seed)
    found = expected(margins)
    assert found.together[1] == pytest.approx(0.5, abs=0.02)
    assert found.chance < 0.1
    assert abs((labels_by(margins) == truth).sum() - ((margins > 0) == truth).sum()) <= 1


@pytest.mark.parametrize("share", [0.03, 0.1, 0.9, 0.97])
@pytest.mark.parametrize("n", [64, 256, 5000])
def test_far_shares_are_seen_where_bells_are_apart(n, share):
    margins, truth = two_bells(n, share, distance=4.0)
    found = expected(margins)
    assert found.chance > 0.95
    assert found.together[1] == pytest.approx(share, abs=0.015)
    assert found.together.sum() == pytest.approx(1.0)
    assert (labels_by(margins) == truth).mean() > 0.99


def test_labels_of_moderate_shares_are_better_than_those_of_equal_ones():
    gains = []
    for seed in range(40):
        margins, truth = two_bells(64, 0.3, seed, distance=1.6)
        centre = margins - margins.mean()  # as calibration does
        gains.append((labels_by(centre) == truth).mean() - ((centre > 0) == truth).mean())
    assert np.mean(gains) > 0.02


@pytest.mark.parametrize("seed", range(8))
def test_skewed_evidence_is_hardly_taken_for_unequal_shares(seed):
    rng = np.random.default_rng(seed)
    sign = np.where(np.arange(128) % 2 == 1, 1.0, -1.0)
    margins = 1.5 * sign + (rng.gamma(3.0, 1.0, size=128) - 3.0) * 0.6  # a long upper end
    assert expected(margins).chance < 0.3
    assert (labels_by(margins) != (margins > 0)).mean() < 0.05


def test_a_second_view_that_is_not_skewed_corrects_one_that_is():
    rng = np.random.default_rng(6)
    sign = np.where(np.arange(128) % 2 == 1, 1.0, -1.0)
    skewed = 1.5 * sign + (rng.gamma(3.0, 1.0, size=128) - 3.0) * 0.6
    plain = 1.5 * sign + rng.normal(size=128)
    one, both = (
        abs(found.together[1] - 0.5) for found in (expected(skewed), expected(skewed, plain))
    )
    assert both < one - 0.02


def test_more_skewed_rows_speak_no_more_against_equal_shares():
    rng = np.random.default_rng(0)
    sign = np.where(np.arange(2000) % 2 == 1, 1.0, -1.0)
    margins = 1.5 * sign + (rng.gamma(3.0, 1.0, size=2000) - 3.0) * 0.6
    few, many = expected(margins[:90]), expected(margins)
    assert many.chance < 0.1
    assert abs(many.near[1] - 0.5) < 0.05
    assert few.chance < 0.1
    assert (labels_by(margins) != (margins > 0)).mean() < 0.02


@pytest.mark.parametrize("seed", range(5))
def test_what_tells_nothing_is_not_taken_for_unequal_shares(seed):
    margins = np.random.default_rng(seed).normal(size=128)
    assert expected(margins).together[1] == pytest.approx(0.5, abs=0.06)
    assert not expected(margins).are_far
    assert expected(two_bells(128, 0.5, seed, distance=0.5)[0]).together[1] == pytest.approx(
        0.5, abs=0.1
    )
    assert expected(np.ones(128)) is None


def test_periodic_rows_are_seen_as_often_as_they_are():
    share = np.where(np.arange(20_000) % 10 == 0, 1.0, -1.0)
    margins = 2.0 * share + np.random.default_rng(0).normal(size=20_000) * 0.7
    assert expected(margins).together[1] == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("flat", ["alone", "among"])
@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_a_view_that_says_the_same_of_all_examples_counts_nothing(flat, noise):
    margins, truth = two_bells(64, 0.5)
    same = 0.3 + np.random.default_rng(1).normal(size=64) * noise
    views = (same, margins) if flat == "alone" else (margins, same)
    found = bootstrap(toy_dataset(64), Asked(*views), fixed=None, rounds=1, shots=0)
    assert (found.together.argmax(axis=1) == truth).mean() > 0.95


def test_rounds_that_a_bound_of_tokens_cut_tell_nothing_of_shares():
    margins, _ = two_bells(160, 0.1)
    asked = Asked(tuple(margins), tuple(margins))
    whole = bootstrap(toy_dataset(160), asked, fixed=None, rounds=1)
    asked.labellings.clear()
    cut = bootstrap(
        toy_dataset(160),
        asked,
        fixed=None,
        rounds=1,
        enough=lambda: len(asked.labellings) > 1,
    )
    assert len(asked.labellings) == 2
    assert whole.shares is not None
    assert cut.shares is None


def test_shares_do_not_depend_on_size_order_or_names():
    margins, _ = two_bells(160, 0.1)
    shares = expected(margins).together
    again = np.random.default_rng(0).permutation(margins) * 1e-3
    assert expected(again).together == pytest.approx(shares, abs=1e-6)
    assert expected(-margins).together[::-1] == pytest.approx(shares, abs=1e-3)


def test_shares_are_left_alone_where_rules_decide_or_rows_are_few():
    margins, _ = two_bells(160, 0.1)
    rules = tuple(
        Constraint(i, i + 1, ((True, True), (True, False)), "not both") for i in range(0, 160, 2)
    )
    bound = dataclasses.replace(toy_dataset(160), constraints=rules)
    asked = Asked(tuple(margins), tuple(margins))
    free_rows = bootstrap(toy_dataset(160), asked, fixed=None, rounds=2)
    kept = bootstrap(bound, asked, fixed=None, rounds=2)
    assert free_rows.shares[1] == pytest.approx(0.1, abs=0.03)
    assert kept.shares is None
    assert kept.together.argmax(axis=1).sum() > free_rows.together.argmax(axis=1).sum()
    assert expected(margins[: FEWEST_ROWS - 1]) is None
    assert expected(margins[:FEWEST_ROWS]) is not None


SHARES_OF_FIVE = (0.45, 0.25, 0.15, 0.1, 0.05)


def five_classes(n, shares, seed, signal=3.0):
    """True labels, and scores of each example alone and among others, whose noise is in common."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(5, n, p=shares)
    common = rng.normal(size=(n, 5))
    noise = [0.8 * common + 0.6 * rng.normal(size=(n, 5)) for _ in range(2)]
    return truth, [signal * np.eye(5)[truth] + part + rng.normal(size=5) for part in noise]


def labels_of_five(n, shares, seed):
    truth, (alone, among) = five_classes(n, shares, seed)
    dataset = toy_dataset(n)
    dataset = dataclasses.replace(dataset, label_space=LabelSpace((" a", " b", " c", " d", " e")))

    def evaluate(labels, rows):
        return (among if (labels >= 0).any() else alone).astype(np.float32)

    plain = 0.5 * view_evidence(alone) + view_evidence(among)
    found = bootstrap(dataset, evaluate, shots=0, fixed=None, rounds=1).together.argmax(axis=1)
    return (found == truth).mean(), (plain.argmax(axis=1) == truth).mean()


@pytest.mark.parametrize("seed", range(4))
def test_shares_of_five_labels_that_the_evidence_shows_plainly_are_met(seed):
    found, plain = labels_of_five(250, SHARES_OF_FIVE, seed)
    assert found > plain + 0.02


@pytest.mark.parametrize("seed", range(4))
def test_equal_shares_of_five_labels_lose_nothing(seed):
    for n in (128, 250):
        found, plain = labels_of_five(n, (0.2,) * 5, seed)
        assert found > plain - 0.005


def test_few_examples_of_five_labels_keep_equal_shares():
    found, plain = labels_of_five(90, SHARES_OF_FIVE, 0)
    assert found == plain
