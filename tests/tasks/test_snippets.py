"""Tweets, sentences of editorials and the source of a snippet: small files, and the package's."""

from __future__ import annotations

import numpy as np
import pytest

from icm_fast.assets.locate import MOVIE_GROUND_TRUTH, NEWS, PRODUCT_REVIEWS, TWEETS
from icm_fast.errors import InputError
from icm_fast.evaluation.gold import held_out
from icm_fast.tasks.duplicates import duplicates
from icm_fast.tasks.registry import load_task
from icm_fast.tasks.source import TaskSource

TEXTS = ["So ''good''", "Awful  day", "It is Monday", "SO ''GOOD''"]
TEXTS += [f"Text number {i}" for i in range(40)]
SCORES = [2.5, -0.6, 0.5, -3.0, *((-1) ** i * 1.5 * (i % 3 > 0) for i in range(40))]
SENTIMENT = {"tweet-sentiment": (TWEETS, "Tweet"), "news-sentiment": (NEWS, "Sentence")}


def write(path, texts=TEXTS, scores=SCORES):
    rows = enumerate(zip(scores, texts, strict=True), 1)
    lines = [f"{i}\t{score}\t{text}\r\n" for i, (score, text) in rows]
    path.write_bytes("".join(lines).encode())
    return path


def texts_of(dataset):
    return {example.prompt for example in dataset.examples}


@pytest.mark.parametrize("task", list(SENTIMENT))
def test_three_classes_at_natural_shares(task, tmp_path):
    name, title = SENTIMENT[task]
    dataset, gold = load_task(task, write(tmp_path / name))
    assert dataset.examples[0].prompt == f'{title}: So "good"\nSentiment:'
    assert dataset.examples[1].prompt == f"{title}: Awful day\nSentiment:"
    assert tuple(dataset.label_space) == (" negative", " neutral", " positive")
    assert gold[:3].tolist() == [2, 0, 1]
    assert dataset.constraints == ()
    assert load_task(task, tmp_path)[0] == dataset
    # Equal texts count once, whatever their case: the first one's score is the one that counts.
    assert len(dataset) == len(TEXTS) - 1
    assert duplicates(dataset.examples) == []


@pytest.mark.parametrize("task", list(SENTIMENT))
def test_two_classes_leave_out_the_neutral_ones_and_no_others(task, tmp_path):
    path = write(tmp_path / "own.txt")
    three, three_gold = load_task(task, path)
    two, gold = load_task(task, path, classes=2)
    assert tuple(two.label_space) == (" negative", " positive")
    kept = [e for e, y in zip(three.examples, three_gold, strict=True) if y != 1]
    assert list(two.examples) == kept
    assert gold.tolist() == [int(y == 2) for y in three_gold if y != 1]


@pytest.mark.parametrize("task", list(SENTIMENT))
def test_filters_and_draws_do_not_depend_on_scores(task, tmp_path):
    options = {"limit": 6, "seed": 2, "split": "search", "max_chars": 14}
    path = tmp_path / "own.txt"
    one, gold = load_task(task, write(path), **options)
    other, other_gold = load_task(task, write(path, scores=[-s for s in SCORES]), **options)
    assert one == other
    assert len(one) == 6
    assert gold.tolist() == (2 - other_gold).tolist()
    assert one != load_task(task, path, **{**options, "seed": 3})[0]


@pytest.mark.parametrize("task", list(SENTIMENT))
def test_splits_and_lengths(task, tmp_path):
    path = write(tmp_path / "own.txt")
    sides = {split: texts_of(load_task(task, path, split=split)[0]) for split in ("search", "test")}
    assert sides["search"]
    assert sides["test"]
    assert not sides["search"] & sides["test"]
    assert sides["search"] | sides["test"] == texts_of(load_task(task, path)[0])
    short, _ = load_task(task, path, max_chars=9)
    assert [example.id.partition("-")[2] for example in short.examples] == ["1", "2"]
    searched = TaskSource(task, str(path), limit=4, options={"split": "search"})
    test, _ = held_out(searched, searched.load_dataset(), 3)
    assert texts_of(test) <= sides["test"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 4}, "classes = 4 of tweet-sentiment is not 2 or 3"),
        ({"split": "serach"}, "unknown split 'serach' of tweet-sentiment.*search"),
        ({"max_chars": 2}, "no tweet is left by split = all, max_chars = 2 and classes = 3"),
    ],
)
def test_wrong_options(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_task("tweet-sentiment", write(tmp_path / "own.txt"), **options)


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("1\t0.5\tfine\n2\tgood\tfine\n")
    with pytest.raises(InputError, match=r"own.txt, line 2: 'good' is not a score"):
        load_task("news-sentiment", path)
    path.write_text("1\t0.5\t \n")
    with pytest.raises(InputError, match=r"line 1: the sentence is empty"):
        load_task("news-sentiment", path)


SIZES = {MOVIE_GROUND_TRUTH: 30, PRODUCT_REVIEWS: 12, NEWS: 20}


def write_sources(folder, scores=None):
    for name, size in SIZES.items():
        texts = [f"{name[:5]} text {i}" for i in range(size)]
        write(folder / name, texts, scores or [1.0] * size)
    return folder


def test_sources_in_equal_numbers_and_an_order_of_texts_alone(tmp_path):
    dataset, gold = load_task("snippet-source", write_sources(tmp_path))
    assert tuple(dataset.label_space) == (" movie", " product", " politics")
    assert np.bincount(gold).tolist() == [12, 12, 12]
    words = [("movie", "amazo", "nytEd")[y] for y in gold]
    for example, word in zip(dataset.examples, words, strict=True):
        assert example.prompt.startswith(f"Text: {word} text ")
        assert example.prompt.endswith("\nTopic:")
        assert word not in example.id
    ids = [example.id for example in dataset.examples]
    assert ids == sorted(ids)
    assert np.count_nonzero(np.diff(gold)) > 12  # mixed, not one source after the other
    again, drawn = load_task("snippet-source", tmp_path, limit=9, seed=4)
    assert set(again.examples) < set(dataset.examples)
    assert len(drawn) == 9


def test_a_text_of_two_sources_counts_once(tmp_path):
    write_sources(tmp_path)
    write(tmp_path / NEWS, ["AMAZO text 3", "Another"], [0.0, 0.0])
    dataset, gold = load_task("snippet-source", tmp_path)
    assert np.bincount(gold).tolist() == [1, 1, 1]
    assert "Text: Another\nTopic:" in texts_of(dataset)


def test_splits_of_sources(tmp_path):
    write_sources(tmp_path)
    found = {s: load_task("snippet-source", tmp_path, split=s) for s in ("search", "test")}
    for _, gold in found.values():
        assert len(set(np.bincount(gold).tolist())) == 1
    assert not texts_of(found["search"][0]) & texts_of(found["test"][0])


def test_a_missing_source_is_explained(tmp_path):
    write_sources(tmp_path)
    with pytest.raises(InputError, match="give the folder of movieReviewSnippets_GroundTruth"):
        load_task("snippet-source", tmp_path / NEWS)
    with pytest.raises(InputError, match="no movie review is left by split = all and max_chars"):
        load_task("snippet-source", tmp_path, max_chars=3)
    (tmp_path / NEWS).unlink()
    with pytest.raises(InputError, match=NEWS):
        load_task("snippet-source", tmp_path)


def test_what_the_package_holds():
    expected = {
        ("tweet-sentiment", 3): [1032, 838, 2270],
        ("tweet-sentiment", 2): [1032, 2270],
        ("news-sentiment", 3): [1661, 2371, 1087],
    }
    for (task, classes), shares in expected.items():
        dataset, gold = load_task(task, classes=classes)
        assert np.bincount(gold).tolist() == shares
        assert duplicates(dataset.examples) == []
    _, gold = load_task("snippet-source")
    assert np.bincount(gold).tolist() == [3696] * 3


def test_sections_of_an_archive_are_a_custom_task(tmp_path):
    (tmp_path / "sections.jsonl").write_text(
        '{"description": "player for music", "section": "sound"}\n'
        '{"description": "maps of the sky", "section": "science"}\n'
        '{"description": "no section yet"}\n'
    )
    path = tmp_path / "sections.yaml"
    path.write_text(
        'data: sections.jsonl\ntemplate: "Description: {description}\\nSection:"\n'
        "labels: [science, sound]\ngold: section\n"
    )
    dataset, gold = load_task("custom", path)
    assert dataset.examples[0].prompt == "Description: player for music\nSection:"
    assert tuple(dataset.label_space) == (" science", " sound")
    assert gold.tolist() == [1, 0, -1]
