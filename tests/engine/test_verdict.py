"""Whether found labels can be trusted, and where it is said."""

import json
import shutil

import numpy as np
import pytest

import icm_fast
from icm_fast.cli import run as command
from icm_fast.config import SearchConfig
from icm_fast.engine.bootstrap import Evidence
from icm_fast.engine.verdict import (
    FEWEST_LABELS,
    Signs,
    label_confidence,
    label_probabilities,
    signs_of,
    usable_chance,
    verdict_of,
)
from icm_fast.errors import InputError
from icm_fast.evaluation.report import run_report
from icm_fast.runs.digests import with_digests
from icm_fast.runs.finished import read_run
from icm_fast.runs.verdict import LEVELS, Verdict, read_verdict
from run_fakes import FakeScorer, toy_dataset

N = 24
GOOD = Signs(alone=0.85, among=0.85, support=0.9, tells=0.25)
BAD = Signs(alone=0.1, among=0.3, support=0.1, tells=0.01)


def scores(labels, strength):
    """Log-probabilities that speak for labels by odds of ``exp(strength)``."""
    table = np.zeros((len(labels), 2), np.float32)
    table[np.arange(len(labels)), labels] = strength
    return table - np.logaddexp.reduce(table, axis=1, keepdims=True)


ALTERNATING = np.arange(N, dtype=np.int32) % 2


def test_signs_of_labels_that_everything_speaks_for():
    signs = signs_of(ALTERNATING, scores(ALTERNATING, 3.0), scores(ALTERNATING, 3.0))
    assert (signs.alone, signs.among, signs.support) == pytest.approx((1.0, 1.0, 1.0))
    assert 0.6 < signs.tells < 1.0


def test_signs_of_labels_that_texts_alone_speak_against():
    signs = signs_of(ALTERNATING, scores(1 - ALTERNATING, 3.0), scores(ALTERNATING, 3.0))
    assert (signs.alone, signs.among) == pytest.approx((-1.0, 1.0))
    assert signs.support == pytest.approx(-1.0)


def test_a_constant_preference_for_one_label_is_no_sign():
    leaning = scores(np.zeros(N, np.int32), 2.0)
    assert signs_of(ALTERNATING, leaning, leaning).tells == pytest.approx(0.0, abs=1e-6)
    tilted = scores(ALTERNATING, 1.0) + np.array([3.0, 0.0], np.float32)
    assert signs_of(ALTERNATING, tilted, tilted).alone == pytest.approx(1.0)


def test_known_and_missing_labels_do_not_count():
    labels = ALTERNATING.copy()
    labels[: N - FEWEST_LABELS] = -1
    assert signs_of(labels, scores(ALTERNATING, 1.0), scores(ALTERNATING, 1.0)) is not None
    labels[N - FEWEST_LABELS] = -1
    assert signs_of(labels, scores(ALTERNATING, 1.0), scores(ALTERNATING, 1.0)) is None
    known = np.where(np.arange(N) < N - FEWEST_LABELS + 1, ALTERNATING, -1)
    assert signs_of(ALTERNATING, scores(labels, 1.0), scores(labels, 1.0), known) is None
    assert verdict_of(None) is None


def test_levels_and_what_they_advise():
    trusted, rejected = verdict_of(GOOD), verdict_of(BAD)
    assert (trusted.level, rejected.level) == ("trust", "reject")
    assert trusted.advice == ""
    assert "Do not use" in rejected.advice
    assert usable_chance(BAD) < usable_chance(GOOD)
    assert trusted.headline.startswith("Trust these labels: the chance that they are usable")
    assert verdict_of(GOOD, ["one-sided"]).level == "doubt"
    middling = Signs(alone=0.3, among=0.3, support=0.4, tells=0.1)
    assert verdict_of(middling).level == "doubt"
    assert verdict_of(middling, ["no-signal"]).level == "reject"
    assert "'one-sided'" in " ".join(verdict_of(GOOD, ["one-sided"]).reasons)
    assert verdict_of(GOOD, ["duplicates"]).level == "trust"


def test_what_speaks_against_the_labels_comes_first():
    mixed = Signs(alone=0.85, among=0.85, support=0.9, tells=0.01)
    reasons = verdict_of(mixed).reasons
    assert "hardly tells" in reasons[0]
    assert len(reasons) == 4


def confidence(labels, *views):
    return label_confidence(labels, label_probabilities(labels, *views))


def test_confidence_is_a_probability_of_the_label():
    unsure = np.where(np.arange(N) < 6, 1 - ALTERNATING, ALTERNATING)
    found = confidence(ALTERNATING, scores(unsure, 1.0), scores(ALTERNATING, 2.0))
    assert found[:6].max() < found[6:].min() <= 1.0
    labels = ALTERNATING.copy()
    labels[3] = -1
    assert confidence(labels, scores(unsure, 1.0), scores(ALTERNATING, 2.0))[3] == 0.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verdict") / "run"
    icm_fast.search(toy_dataset(N), model="fake", scorer=FakeScorer(N), output_dir=folder)
    return folder


def test_a_search_gives_one_and_its_folder_keeps_it(folder, tmp_path):
    found = icm_fast.search(toy_dataset(N), model="fake", scorer=FakeScorer(N))
    assert found.verdict.level in LEVELS
    assert found.confidence.shape == (N,)
    stored = read_run(folder)
    assert read_verdict(stored.summary) == found.verdict
    assert stored.summary["signs"] == found.signs.content()
    text = run_report(stored)
    assert text.index("## Verdict") < text.index("## Labels")
    assert found.verdict.headline in text
    least = int(found.confidence.argmin())
    table = text[text.index("| id ") :]
    assert "| confidence |" in table
    assert stored.dataset.examples[least].id in table.splitlines()[2]


def test_a_search_that_never_scores_texts_alone_gives_none():
    config = SearchConfig(preset="paper", max_evaluations=8)
    found = icm_fast.search(toy_dataset(N), model="fake", scorer=FakeScorer(N), config=config)
    assert (found.verdict, found.confidence, found.signs) == (None, None, None)


def test_the_page_begins_with_it(folder, tmp_path):
    page = tmp_path / "page.html"
    assert command(["report", str(folder), "-o", str(page)]) == 0
    html = page.read_text()
    assert html.index('id="verdict"') < html.index('id="summary"')
    assert f'class="verdict {read_run(folder).summary["verdict"]["level"]}"' in html


def test_the_list_of_runs_names_it(folder, capsys):
    assert command(["runs", "ls", str(folder.parent), "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["runs"]
    assert listed["verdict"] == read_run(folder).summary["verdict"]["level"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"level": "sure"}, "level is 'sure', expected one of trust, doubt, reject"),
        ({"chance": 2}, "chance is 2"),
        ({"reasons": "none"}, "reasons is 'none', expected a list of texts"),
    ],
)
def test_a_damaged_one_is_refused(change, said):
    content = Verdict("trust", 0.9, ("a reason",)).content() | change
    with pytest.raises(InputError, match="summary, verdict") as error:
        read_verdict({"verdict": content})
    assert said in str(error.value)


def test_confidence_takes_in_what_a_search_started_from():
    doubted = np.where(np.arange(N) < 6, 1 - ALTERNATING, ALTERNATING)
    flat = np.zeros((N, 2), np.float32) - np.float32(np.log(2.0))
    start = Evidence(scores(doubted, 2.0), scores(doubted, 1.0).astype(np.float64))
    found = confidence(ALTERNATING, flat, flat, start)
    assert found[:6].max() < 0.5 < found[6:].min()
    # The level follows from how often the labels are those by texts: 18 of 24 here, then all.
    sure = confidence(ALTERNATING, flat, flat, Evidence(scores(ALTERNATING, 2.0), start.texts))
    surer = confidence(
        ALTERNATING,
        flat,
        flat,
        Evidence(scores(ALTERNATING, 2.0), scores(ALTERNATING, 1.0).astype(np.float64)),
    )
    assert 0.7 < sure.mean() < surer.mean()


def test_texts_that_speak_for_other_labels_are_a_sign_against():
    both = scores(ALTERNATING, 3.0), scores(ALTERNATING, 3.0)
    backed = signs_of(ALTERNATING, *both, None, scores(ALTERNATING, 1.0))
    opposed = signs_of(ALTERNATING, *both, None, scores(1 - ALTERNATING, 1.0))
    assert (backed.texts, opposed.texts) == pytest.approx((1.0, -1.0))
    assert usable_chance(opposed) < usable_chance(backed)
    assert "asked the other way round" in verdict_of(opposed).reasons[0]
    assert len(verdict_of(opposed).reasons) == 5
    assert "texts" not in signs_of(ALTERNATING, *both).content()
    assert backed.content()["texts"] == 1.0


def test_a_folder_without_confidence_gets_it_and_keeps_its_summary(folder, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    whole = (copy / "labels.jsonl").read_bytes()
    lines = [json.loads(line) for line in whole.decode().splitlines()]
    assert all(0 < line.pop("confidence") <= 1 for line in lines)
    (copy / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = json.loads((copy / "summary.json").read_text())
    digests = summary.pop("digests")
    former = with_digests(summary, copy, [name for name in digests if name != "summary"], "")
    (copy / "summary.json").write_text(json.dumps(former))
    assert read_run(copy).confidence is None  # as version 0.1 left it
    icm_fast.search(toy_dataset(N), model="fake", scorer=FakeScorer(N), output_dir=copy)
    assert (copy / "labels.jsonl").read_bytes() == whole
    assert json.loads((copy / "summary.json").read_text()) == summary | {"digests": digests}
    # Killed after the labels were written, before the summary was.
    damaged = with_digests(summary | {"concerns": []}, copy, [], "")
    stale = damaged | {
        "digests": former["digests"] | {"summary.json": damaged["digests"]["summary.json"]}
    }
    (copy / "summary.json").write_text(json.dumps(stale))
    icm_fast.search(toy_dataset(N), model="fake", scorer=FakeScorer(N), output_dir=copy)
    assert read_run(copy).summary["verdict"] == summary["verdict"]
    assert (copy / "labels.jsonl").read_bytes() == whole
    assert read_run(copy).confidence is not None


def test_signs_are_those_within_a_wording():
    """Labels that follow from a claim agree with every view of it, and that says nothing."""
    claim, texts = np.arange(N, dtype=np.int32) % 2, (np.arange(N) // 2) % 2
    views = scores(claim, 3.0), scores(claim, 3.0)
    misled = signs_of(claim, *views, None, scores(claim, 3.0))
    told = signs_of(claim, *views, None, scores(claim, 3.0), claim)
    assert (misled.alone, misled.among, misled.texts) == pytest.approx((1.0, 1.0, 1.0))
    assert (told.alone, told.among, told.texts, told.tells) == pytest.approx((0.0,) * 4, abs=1e-6)
    right = (claim == texts).astype(np.int32)
    leaning = scores(right, 1.0) + scores(claim, 2.0)
    found = signs_of(right, leaning, leaning, None, None, claim)
    assert (found.alone, found.among, found.support) == pytest.approx((1.0, 1.0, 1.0))
