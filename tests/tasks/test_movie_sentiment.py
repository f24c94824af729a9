"""movie-sentiment on a small file of our own, and on the installed copy where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from icm_fast.assets.locate import MOVIE_GROUND_TRUTH, MOVIE_RATINGS, movie_review_file
from icm_fast.errors import InputError
from icm_fast.tasks import crowd_labels
from icm_fast.tasks.registry import load_task
from icm_fast.tasks.snippet_files import clean_text

TEXTS = ["A   ''fine'' film", "Dull", "So so", *(f"Review number {i}" for i in range(40))]
MEANS = [2.5, -1.25, 0.0, *((-1) ** i * 1.5 for i in range(40))]


def write(folder, means=MEANS):
    ratings = [[2, -1], [-3, 1], [0, 0], *([int(m * 2), 0] for m in means[3:])]
    reviews = [f"{i}\t{m}\t{t}\r\n" for i, (m, t) in enumerate(zip(means, TEXTS, strict=True), 1)]
    scores = [
        f"{i}\t{m}\t0.5\t{r}\r\n" for i, (m, r) in enumerate(zip(means, ratings, strict=True), 1)
    ]
    (folder / MOVIE_GROUND_TRUTH).write_bytes("".join(reviews).encode())
    (folder / MOVIE_RATINGS).write_bytes("".join(scores).encode())
    return folder


def test_plain_form(tmp_path):
    dataset, gold = load_task("movie-sentiment", write(tmp_path))
    assert dataset.examples[0].prompt == 'Review: A "fine" film\nSentiment:'
    assert dataset.examples[0].id == "movie-1"
    assert tuple(dataset.label_space) == (" negative", " positive")
    assert gold[:3].tolist() == [1, 0, -1]
    assert dataset.constraints == ()
    from_file, _ = load_task("movie-sentiment", tmp_path / MOVIE_GROUND_TRUTH)
    assert from_file == dataset


def test_paired_form(tmp_path):
    dataset, gold = load_task("movie-sentiment", write(tmp_path), form="paired")
    assert [example.prompt for example in dataset.examples[2:4]] == [
        "Review: Dull\nClaim: the review is positive\nThis claim is",
        "Review: Dull\nClaim: the review is negative\nThis claim is",
    ]
    assert gold[:6].tolist() == [1, 0, 0, 1, -1, -1]
    assert tuple(dataset.label_space) == (" False", " True")
    assert len(dataset.constraints) == len(TEXTS)
    assert dataset.constraints[1].allowed == ((False, True), (True, False))
    assert (dataset.constraints[1].first, dataset.constraints[1].second) == (2, 3)


def test_crowd_labels_follow_the_example(tmp_path):
    folder = write(tmp_path)
    plain, _ = load_task("movie-sentiment", folder)
    assert crowd_labels("movie-sentiment", plain, 0, folder)[:3].tolist() == [1, 0, -1]
    assert crowd_labels("movie-sentiment", plain, 1, folder)[:3].tolist() == [0, 1, -1]
    subset = plain.subset([1, 0])
    labels = crowd_labels("movie-sentiment", subset, 1, folder)
    assert labels.tolist() == [1, 0]
    assert labels.dtype == np.int32
    paired, _ = load_task("movie-sentiment", folder, form="paired")
    assert crowd_labels("movie-sentiment", paired, 1, folder)[:6].tolist() == [0, 1, 1, 0, -1, -1]


def test_crowd_labels_refuse_what_has_no_raters(tmp_path):
    folder = write(tmp_path)
    dataset, _ = load_task("movie-sentiment", folder)
    with pytest.raises(InputError, match="no rater 2"):
        crowd_labels("movie-sentiment", dataset, 2, folder)
    with pytest.raises(InputError, match="no rater -1"):
        crowd_labels("movie-sentiment", dataset, -1, folder)
    with pytest.raises(InputError, match="has no crowd labels"):
        crowd_labels("truthfulqa", dataset, 0, folder)
    other, _ = load_task("larger-than", limit=2)
    with pytest.raises(InputError, match="is not a review"):
        crowd_labels("movie-sentiment", other, 0, folder)


@pytest.mark.parametrize("form", ["plain", "paired"])
def test_splits_never_share_a_review(tmp_path, form):
    folder = write(tmp_path)
    sides = {
        split: load_task("movie-sentiment", folder, split=split, form=form)[0]
        for split in ("search", "test", "all")
    }
    prompts = {split: {e.prompt for e in dataset.examples} for split, dataset in sides.items()}
    assert prompts["search"]
    assert prompts["test"]
    assert not prompts["search"] & prompts["test"]
    assert prompts["search"] | prompts["test"] == prompts["all"]


def test_filters_and_draws_do_not_depend_on_scores(tmp_path):
    options = {"limit": 6, "seed": 2, "split": "search", "max_chars": 20}
    for form in ("plain", "paired"):
        one, gold = load_task("movie-sentiment", write(tmp_path), form=form, **options)
        negated = [-mean for mean in MEANS]
        other, other_gold = load_task(
            "movie-sentiment", write(tmp_path, negated), form=form, **options
        )
        assert one == other
        assert len(one) == 6
        assert gold.tolist() != other_gold.tolist()


def test_max_chars_counts_the_cleaned_text(tmp_path):
    folder = write(tmp_path)
    dataset, _ = load_task("movie-sentiment", folder, max_chars=5)
    assert [example.id for example in dataset.examples] == ["movie-2", "movie-3"]
    with pytest.raises(InputError, match="max_chars = 2"):
        load_task("movie-sentiment", folder, max_chars=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("1\t2.0\n", r"line 1: 2 tab-separated fields, expected 3"),
        ("1\t2.0\tGood\n2\tbad\tx\n", r"line 2: 'bad' is not a score"),
        ("1\t2.0\t  \n", r"line 1: the review is empty"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "reviews.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_task("movie-sentiment", path)


@pytest.mark.parametrize("option", [{"form": "pairs"}, {"split": "train"}])
def test_unknown_choices(option):
    with pytest.raises(InputError, match="of movie-sentiment"):
        load_task("movie-sentiment", **option)


def test_clean_text():
    assert clean_text("a  ''b''\t c ") == 'a "b" c'


def test_installed_copy():
    try:
        movie_review_file(MOVIE_GROUND_TRUTH)
    except InputError as error:
        pytest.skip(str(error))
    dataset, gold = load_task("movie-sentiment")
    assert len(dataset) == 10605
    assert np.bincount(gold + 1).tolist() == [37, 5326, 5242]
    assert all(len(example.prompt) < 300 for example in dataset.examples)
    crowd = crowd_labels("movie-sentiment", dataset)
    known = (crowd >= 0) & (gold >= 0)
    assert 0.9 < np.mean(crowd[known] == gold[known]) < 1.0
