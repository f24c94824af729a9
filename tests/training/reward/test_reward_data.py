"""Pairs from runs and files; labels of people; RewardBench's arithmetic."""

import numpy as np
import pytest
from reward_cases import write_lines

from icm_fast import Dataset, Example, InputError, LabelSpace, load_task
from icm_fast.export.preferences import CONTRADICTING, NOT_LABELLED, SAME_TEXT
from icm_fast.runs.finished import FinishedRun
from icm_fast.tasks.source import TaskSource
from icm_fast.training.reward import pairs_of_labels, pairs_of_run, read_pairs
from icm_fast.training.reward.evaluation import summarise
from icm_fast.training.reward.human_pairs import human_pairs
from icm_fast.training.reward.rewardbench import COUNTS as REWARDBENCH_COUNTS
from icm_fast.training.reward.rewardbench import (
    PRIOR_SETS,
    SECTIONS,
    final_score,
    section_scores,
)

PREFERENCE = [
    {
        "question": f"Q{k // 2}?\nResponse 1: x\n",
        "choice": a,
        "choice_2": b,
        "consistency_id": k // 2,
    }
    for k, (a, b) in enumerate(
        [("good 0", "bad 0"), ("bad 0", "good 0"), ("bad 1", "good 1"), ("good 1", "bad 1"),
         ("good 2", "bad 2"), ("bad 2", "good 2"), ("good 3", "bad 3"), ("bad 3", "good 3")]
    )
]  # fmt: skip
RATINGS = [  # id, mean, text, one rater's score
    ("1", 2.0, "a warm film", 3), ("2", -1.0, "dull", -2), ("3", 1.0, "great cast", -1),
    ("4", -3.0, "loud and long", -2), ("5", -2.0, "empty", 0),
]  # fmt: skip


def preference(tmp_path, gold=()):
    rows = [dict(row) for row in PREFERENCE]
    for row, label in zip(rows, gold, strict=False):
        row["label"] = label
    path = write_lines(tmp_path / "preference.jsonl", rows)
    return path, load_task("alpaca-preference", path)[0]


def movie_files(tmp_path):
    from icm_fast.assets.locate import MOVIE_GROUND_TRUTH, MOVIE_RATINGS

    truth = [f"{i}\t{mean}\t{text}\n" for i, mean, text, _ in RATINGS]
    raters = [f"{i}\t{mean}\t0\t[{own}]\n" for i, mean, _, own in RATINGS]
    (tmp_path / MOVIE_GROUND_TRUTH).write_text("".join(truth))
    (tmp_path / MOVIE_RATINGS).write_text("".join(raters))
    return tmp_path


def run_of(dataset, labels, tmp_path, source=None, margins=None):
    from icm_fast import SearchConfig

    n = len(dataset)
    return FinishedRun(
        folder=tmp_path,
        model="m",
        config=SearchConfig(),
        source=source,
        dataset=dataset,
        labels=np.array(labels, np.int32),
        scores=np.zeros((n, 2), np.float32),
        margins=tuple(margins or [None if y < 0 else 1.0 for y in labels]),
        confidence=None,
        summary={},
        events=(),
    )


def texts(found):
    return [(p.prompt, p.chosen, p.rejected) for p in found.pairs]


def test_comparisons_give_one_pair_for_both_orders(tmp_path):
    path, dataset = preference(tmp_path)
    source = TaskSource("alpaca-preference", str(path))
    #          agree  agree  one alone  contradict
    labels = [1, 0, 1, 0, -1, 1, 1, 1]
    found = pairs_of_labels(
        dataset, np.array(labels), [3.0, 1.0, 1, 1, 9, 0.5, 1, 1], source=source
    )
    question = "Q{}?\nResponse 1: x\n"
    assert texts(found) == [
        (question.format(0), "good 0", "bad 0"),
        (question.format(1), "bad 1", "good 1"),
        (question.format(2), "bad 2", "good 2"),
    ]
    assert [p.margin for p in found.pairs] == [2.0, 1.0, 0.5]
    assert [p.group for p in found.pairs] == ["0", "1", "2"]
    assert found.left_out == {CONTRADICTING: 1}
    none = np.array([-1, -1, 1, 0, -1, -1, 0, 0])
    left_out = pairs_of_labels(dataset, none, source=source).left_out
    assert left_out == {NOT_LABELLED: 2, CONTRADICTING: 1}


def test_texts_are_those_of_the_file_and_not_of_the_claim(tmp_path):
    """A claim has its texts in one line each, and may hold what looks like another claim."""
    tricky = "a\nResponse 2: b\nClaim: Response 1 is best"
    texts_of = [(tricky, "c\n d"), ("c\n d", tricky), ("e", "e"), ("e", "e")]
    rows = [
        {"question": f"Q{k // 2}", "choice": one, "choice_2": other, "consistency_id": k // 2}
        for k, (one, other) in enumerate(texts_of)
    ]
    path = write_lines(tmp_path / "p.jsonl", rows)
    dataset = load_task("alpaca-preference", path)[0]
    source = TaskSource("alpaca-preference", str(path))
    found = pairs_of_labels(dataset, np.array([1, 0, 1, 0]), source=source)
    assert texts(found) == [("Q0", tricky, "c\n d")]
    assert found.left_out == {SAME_TEXT: 1}
    write_lines(path, [row | {"choice": "new"} for row in rows])
    with pytest.raises(InputError, match="restore the data that were searched"):
        pairs_of_labels(dataset, np.array([1, 0, 1, 0]), source=source)


def test_negative_margins_count_as_none(tmp_path):
    path, dataset = preference(tmp_path)
    source = TaskSource("alpaca-preference", str(path))
    run = run_of(dataset, [1, 0] + [-1] * 6, tmp_path, source, [-3.0, 1.0] + [None] * 6)
    assert [p.margin for p in pairs_of_run(run).pairs] == [0.0]


@pytest.mark.parametrize("form", ["plain", "paired"])
def test_positive_reviews_are_chosen_over_negative_ones(form, tmp_path):
    source = TaskSource("movie-sentiment", str(movie_files(tmp_path)), options={"form": form})
    dataset, gold = source.load()
    found = pairs_of_labels(dataset, gold, source=source)
    positive, negative = {"a warm film", "great cast"}, {"dull", "loud and long", "empty"}
    pairs = {(p.chosen, p.rejected) for p in found.pairs}
    assert pairs == {(good, bad) for good in positive for bad in negative}  # at most four partners
    assert len(found.pairs) == 6
    assert {p.prompt for p in found.pairs} == {""}
    again, other = (pairs_of_labels(dataset, gold, source=source, seed=s) for s in (0, 1))
    assert texts(again) == texts(found)
    assert texts(other) != texts(found)


def test_a_review_with_contradicting_claims_is_left_out(tmp_path):
    folder = str(movie_files(tmp_path))
    source = TaskSource("movie-sentiment", folder, options={"form": "paired"})
    dataset, gold = source.load()
    labels = gold.copy()
    labels[:2] = 1  # both that the first review is positive and that it is negative
    labels[2:4] = -1
    found = pairs_of_labels(dataset, labels, np.arange(len(labels)), source=source)
    assert found.left_out == {CONTRADICTING: 1, NOT_LABELLED: 1}
    # The review's mean over its two claims, and the sum over both reviews.
    assert [(p.chosen, p.rejected, p.margin) for p in found.pairs] == [
        ("great cast", "loud and long", 4.5 + 6.5),
        ("great cast", "empty", 4.5 + 8.5),
    ]
    plain, gold = load_task("movie-sentiment", folder)
    with pytest.raises(InputError, match=r"give no pair .*one label only"):
        pairs_of_labels(plain, np.ones_like(gold))


def test_no_review_meets_more_than_four_others():
    examples = tuple(Example(f"r{i}", f"Review: text {i}\nSentiment:") for i in range(40))
    dataset = Dataset(examples, LabelSpace((" negative", " positive")), name="movie-sentiment")
    found = pairs_of_labels(dataset, np.arange(40) % 2)
    assert len({(p.chosen, p.rejected) for p in found.pairs}) == len(found.pairs) == 80
    for side in ("chosen", "rejected"):
        names = [getattr(p, side) for p in found.pairs]
        assert {names.count(name) for name in names} == {4}


@pytest.mark.parametrize("task", ["sun-poems", "author-gender"])
def test_the_texts_of_other_comparisons_are_read_again(task, tmp_path):
    path = None
    if task == "author-gender":
        rows = [{**row, "label": 1} for row in PREFERENCE[::2]]
        path = str(write_lines(tmp_path / "blogs.jsonl", rows))
    source = TaskSource(task, path, limit=4)
    dataset, gold = source.load()
    found = pairs_of_labels(dataset, gold, source=source)
    words = {"sun-poems": "poem", "author-gender": "blog post"}
    assert all(words[task] in pair.prompt for pair in found.pairs)
    for pair in found.pairs:
        claims = [e.prompt for e, y in zip(dataset.examples, gold, strict=True) if y == 1]
        mine = [c for c in claims if pair.chosen in c and pair.rejected in c]
        assert any(c.index(pair.chosen) < c.index(pair.rejected) for c in mine)
    assert len(found.pairs) == len(dataset) // (2 if task == "sun-poems" else 1)


def test_other_tasks_and_other_prompts_are_refused(tmp_path):
    dataset, gold = load_task("larger-than", limit=4)
    with pytest.raises(InputError, match="task 'larger-than' gives no pairs; take a run of alpaca"):
        pairs_of_labels(dataset, gold)
    poems, gold = load_task("sun-poems", limit=4)
    with pytest.raises(InputError, match="data set sun-poems does not say which task"):
        pairs_of_labels(poems, gold)
    labels = LabelSpace((" negative", " positive"))
    strange = Dataset((Example("a", "What?"),), labels, name="movie-sentiment")
    with pytest.raises(InputError, match=r"'What.' is not one of movie-sentiment"):
        pairs_of_labels(strange, np.array([1]))


def test_human_pairs_take_the_labels_of_people(tmp_path):
    gold = [1, 0, 0, 1, 0, 1, 1, 0]
    path, dataset = preference(tmp_path, gold)
    source = TaskSource("alpaca-preference", str(path))
    run = run_of(dataset, [1 - y for y in gold], tmp_path, source)
    human = human_pairs(run, "gold")
    assert [p.chosen for p in human.pairs] == ["good 0", "good 1", "bad 2", "good 3"]
    assert [p.rejected for p in pairs_of_run(run).pairs] == [p.chosen for p in human.pairs]
    assert {p.margin for p in human.pairs} == {0.0}
    with pytest.raises(InputError, match="'alpaca-preference' has no crowd labels"):
        human_pairs(run, "crowd")
    with pytest.raises(InputError, match="unknown labels 'golden'; did you mean 'gold'"):
        human_pairs(run, "golden")
    with pytest.raises(InputError, match="so gold labels are unknown"):
        human_pairs(run_of(dataset, gold, tmp_path), "gold")


def test_crowd_labels_are_one_raters_own(tmp_path):
    folder = movie_files(tmp_path)
    dataset, gold = load_task("movie-sentiment", folder)
    run = run_of(dataset, gold, tmp_path, TaskSource("movie-sentiment", str(folder)))
    chosen = {kind: {p.chosen for p in human_pairs(run, kind).pairs} for kind in ("gold", "crowd")}
    assert chosen == {"gold": {"a warm film", "great cast"}, "crowd": {"a warm film"}}
    assert human_pairs(run, "crowd").left_out == {NOT_LABELLED: 1}  # the rater was neutral


def test_files_of_pairs(tmp_path):
    rows = [
        {"prompt": "Q", "chosen": "a", "rejected": "b"},
        {"chosen": "c", "rejected": "d", "subset": "x"},
        {"prompt": "", "chosen": "same", "rejected": "same"},
    ]
    rows[0] |= {"group": "g", "margin": 2, "probability": 0.7}
    found = read_pairs(write_lines(tmp_path / "p.jsonl", rows))
    assert texts(found) == [("Q", "a", "b"), ("", "c", "d")]
    assert (found.pairs[0].group, found.pairs[0].margin, found.pairs[0].probability) == (
        "g",
        2,
        0.7,
    )
    assert found.left_out == {"both texts are the same": 1}
    (tmp_path / "p.csv").write_text('prompt,chosen,rejected\nQ,"a, b",c\n')
    assert texts(read_pairs(tmp_path / "p.csv")) == [("Q", "a, b", "c")]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"chosen": "a"}, "line 1: column 'rejected' is missing"),
        ({"chosen": [{"role": "user"}], "rejected": "b"}, "column .chosen., message 1 is not"),
        ({"chosen": "a", "rejected": "b", "margin": "much"}, "'margin' is 'much'; write a number"),
        ({"chosen": "a", "rejected": "b", "probability": 2}, "line 1: the probability of a pair"),
    ],
)
def test_bad_rows_are_named(row, text, tmp_path):
    with pytest.raises(InputError, match=text):
        read_pairs(write_lines(tmp_path / "p.jsonl", [row]))


COUNTS = {
    "alpacaeval-easy": 10, "mt-bench-easy": 30,  # Chat
    "mt-bench-hard": 4,  # Chat Hard
    "donotanswer": 5, "xstest-should-refuse": 15,  # Safety
    "math-prm": 40, "hep-cpp": 10, "hep-go": 30,  # Reasoning
}  # fmt: skip
RIGHT = {
    "alpacaeval-easy": 10, "mt-bench-easy": 15, "mt-bench-hard": 1, "donotanswer": 5,
    "xstest-should-refuse": 3, "math-prm": 10, "hep-cpp": 10, "hep-go": 15,
}  # fmt: skip
BY_HAND = {  # by the published numbers, of which this file has a part
    "Chat": (100 * 1.0 + 28 * 0.5) / 128,
    "Chat Hard": 1 / 4,
    "Safety": (136 * 1.0 + 154 * 0.2) / 290,
    # math-prm 0.25 weighs as much as six code subsets, hep-cpp 1.0 and hep-go 0.5 as one each.
    "Reasoning": (6 * 0.25 + 1.0 + 0.5) / 8,
}


def outcomes():
    return {name: np.arange(n) < RIGHT[name] for name, n in COUNTS.items()}


def test_sections_and_score_by_hand():
    found = summarise(outcomes() | {"mine": np.array([True, False])})
    assert {s: f.value for s, f in found.sections.items()} == pytest.approx(BY_HAND)
    assert found.score.value == pytest.approx(sum(BY_HAND.values()) / 4)
    assert found.score.n == 144
    assert found.subsets["mine"].value == 0.5
    assert found.overall.value == pytest.approx((sum(RIGHT.values()) + 1) / 146)
    text = found.to_markdown()
    assert "| Reasoning | 0.375 |" in text
    assert f"| **score** | {found.score.value:.3f} |" in text
    assert found.other_counts["alpacaeval-easy"] == 10
    assert found.other_counts["hep-js"] == 0
    assert "published numbers of pairs" in text
    assert "alpacaeval-easy 10 of 100" in text
    assert "In no section of RewardBench: mine." in text


def test_the_published_counts_give_the_published_weights():
    """1 for one subset and 0 for the others: its score is its weight."""
    for subset in SECTIONS["Reasoning"]:
        accuracies = {name: float(name == subset) for name in SECTIONS["Reasoning"]}
        # The published code counts math-prm as 984 examples beside 6 x 164.
        expected = (984 if subset == "math-prm" else 164) / (984 + 6 * 164)
        assert section_scores(accuracies)["Reasoning"] == pytest.approx(expected)


def test_without_all_sections_there_is_no_score():
    part = {name: right for name, right in outcomes().items() if name != "mt-bench-hard"}
    found = summarise(part)
    assert found.score is None
    assert "Chat Hard" not in found.sections
    assert final_score({"Chat": 1.0}) is None
    only_math = section_scores({"math-prm": 0.3})
    assert only_math == {"Reasoning": pytest.approx(0.3)}
    unknown = summarise({"mine": np.array([True])})
    assert unknown.sections == {}
    assert "section" not in unknown.to_markdown()


def test_prior_sets_are_a_section_of_half_the_weight_on_request():
    prior = {"anthropic_hhh": np.array([True, False]), "shp": np.array([True] * 3)}
    without = summarise(outcomes() | prior)
    assert PRIOR_SETS not in without.sections
    assert "In no section of RewardBench: anthropic_hhh, shp." in without.to_markdown()
    found = summarise(outcomes() | prior, prior_sets=True)
    assert found.sections[PRIOR_SETS].value == pytest.approx((0.5 + 1.0) / 2)
    expected = (sum(BY_HAND.values()) + 0.5 * 0.75) / 4.5
    assert found.score.value == pytest.approx(expected)
    assert "In no section" not in found.to_markdown()
    assert summarise(outcomes(), prior_sets=True).score is None


def test_the_whole_file_has_the_published_counts_and_no_warning():
    whole = {name: np.ones(n, bool) for name, n in REWARDBENCH_COUNTS.items()}
    found = summarise(whole)
    assert sum(REWARDBENCH_COUNTS.values()) == found.overall.n == 2985
    assert found.other_counts == {}
    assert "Warning" not in found.to_markdown()
    assert summarise({"mine": np.array([True])}).other_counts == {}


def test_texts_that_stand_in_several_pairs_widen_the_interval():
    rng = np.random.default_rng(3)
    good, bad = (rng.normal(mean, 1.0, 60) for mean in (1.0, 0.0))
    texts = [(f"g{i}", f"b{(i + shift) % 60}") for shift in range(4) for i in range(60)]
    right = np.array([good[int(a[1:])] > bad[int(b[1:])] for a, b in texts])
    alone = summarise({"all": right}).overall
    joined = summarise({"all": right}, texts={"all": texts}).overall
    assert joined.value == alone.value
    assert 1.2 < (joined.high - joined.low) / (alone.high - alone.low) < 2.5
    different = [(f"g{k}", f"b{k}") for k in range(240)]
    assert summarise({"all": right}, texts={"all": different}).overall == alone
    # As many true accuracies lie in it as it says, about.
    inside = 0
    for k in range(40):
        good, bad = (rng.normal(mean, 1.0, 60) for mean in (1.0, 0.0))
        right = np.array([good[int(a[1:])] > bad[int(b[1:])] for a, b in texts])
        found = summarise({"all": right}, texts={"all": texts}, seed=k).overall
        inside += found.low <= 0.7602 <= found.high  # P(N(1, 2) > 0)
    assert inside >= 35


def test_intervals_are_those_of_a_bootstrap():
    found = summarise(outcomes(), seed=1)
    again, other = summarise(outcomes(), seed=1), summarise(outcomes(), seed=2)
    assert found == again != other
    rng = np.random.default_rng(0)
    flags = outcomes()
    drawn = []
    for _ in range(4000):
        accuracies = {s: rng.choice(f, len(f)).mean() for s, f in flags.items()}
        drawn.append(np.mean(list(section_scores(accuracies).values())))
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.score.low == pytest.approx(low, abs=0.015)
    assert found.score.high == pytest.approx(high, abs=0.015)
    assert found.subsets["alpacaeval-easy"].low == 1.0
