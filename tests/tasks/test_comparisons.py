"""What examples compare, read from the data of their tasks, against the prompts of the loaders."""

import json

import pytest

from icm_fast.errors import InputError
from icm_fast.tasks.comparisons import COMPARING_TASKS, load_comparisons
from icm_fast.tasks.source import TaskSource

ROWS = [
    {"question": f"Q{k}?", "choice": one, "choice_2": other, "consistency_id": k}
    for k in range(3)
    for one, other in ((f"a\nb {k}", f"c {k}"), (f"c {k}", f"a\nb {k}"))
]
BLOGS = [(f"{k}", ("male", "female")[k % 2], f"blog {k} is about posts") for k in range(8)]


@pytest.fixture
def sources(tmp_path):
    rows, blogs, reviews = (tmp_path / name for name in ("rows.jsonl", "blogs.csv", "reviews.txt"))
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    lines = ["id,gender,text", *(",".join(blog) for blog in BLOGS)]
    blogs.write_text("\n".join(lines) + "\n")
    reviews.write_text("1\t2.5\ta fine ''film''\n2\t-1\tdull\n3\t0.5\tso and so\n")
    return [
        TaskSource("alpaca-preference", str(rows)),
        TaskSource("alpaca-preference", str(rows), limit=4, options={"paper_mode": True}),
        TaskSource("author-gender", str(rows)),
        TaskSource("author-gender", str(blogs), limit=4, seed=2, options={"min_chars": 3}),
        TaskSource("author-gender", str(blogs), options={"min_chars": 3, "max_chars": 11}),
        TaskSource("movie-sentiment", str(reviews), limit=2, options={"form": "paired"}),
        TaskSource("sun-poems", limit=6, seed=5),
        TaskSource("sun-poems", seed=1, options={"n_groups": 3}),
        TaskSource("truthfulqa-preference", str(rows)),
    ]


def test_every_example_has_its_claim_and_its_pair_reversed(sources):
    assert {source.task for source in sources} == set(COMPARING_TASKS)
    for source in sources:
        dataset = source.load_dataset()
        known = load_comparisons(source)
        pairs: dict[str, list] = {}
        for example in dataset.examples:
            comparison = known[example.id]
            assert comparison.claim == example.prompt
            pairs.setdefault(example.group, []).append(comparison)
        for one, other in pairs.values():
            assert (one.first, one.second) == (other.second, other.first)
            assert one.question == other.question


def test_texts_stand_as_in_the_file(sources):
    known = load_comparisons(sources[0])
    comparison = known["alpaca-preference-2"]
    assert (comparison.question, comparison.first, comparison.second) == ("Q1?", "a\nb 1", "c 1")


def test_a_claim_prefers_what_it_says(sources):
    gendered = load_comparisons(sources[2])["author-gender-0"]
    assert gendered.claim.startswith(f"Blog A: {gendered.first.replace(chr(10), ' ')}\n")
    assert "Blog A was written by a man" in gendered.claim
    assert "as a man" in gendered.question
    review = load_comparisons(sources[5])["movie-2-negative"]
    assert "the review is negative" in review.claim
    assert (review.first, review.second) == ("negative", "positive")
    assert review.question == "Review: dull\nIs the review positive or negative?"
    poem = next(iter(load_comparisons(sources[6]).values()))
    assert poem.claim.startswith(f"Poem A: {poem.first}\nPoem B: {poem.second}\n")


def test_gold_is_not_read(sources, tmp_path):
    before = load_comparisons(sources[0])
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row | {"label": "nonsense"}) + "\n" for row in ROWS))
    assert load_comparisons(sources[0]) == before


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (TaskSource("truthfulqa", "a.jsonl"), "'truthfulqa' does not compare two texts"),
        (TaskSource("larger-than"), "does not compare two texts"),
        (TaskSource("movie-sentiment"), "--option form=paired"),
    ],
)
def test_other_tasks_say_which_ones_compare(source, words):
    with pytest.raises(InputError, match=words):
        load_comparisons(source)
