"""author-gender from the Blog Authorship Corpus, on small synthetic files of both forms."""

from __future__ import annotations

import csv
import re

import pytest

from icm_fast.errors import InputError
from icm_fast.tasks.registry import load_task
from icm_fast.types import LabelSpace

PROMPT = re.compile(
    r"Blog A: (.+)\nBlog B: (.+)\nClaim: Blog A was written by a man and Blog B by a woman\.\n"
    r"I think this claim is"
)
COLUMNS = ("id", "gender", "age", "topic", "sign", "date", "text")
SWAPPED = {"male": "female", "female": "male"}
AUTHORS = {str(100 + k): "male" if k % 3 else "female" for k in range(18)}  # 12 men, 6 women


def post(author, number, length=150):
    text = f"Author {author} wrote post {number}"
    return text + " and then went on" * ((length - len(text)) // 17 + 1)


ROWS = [(author, gender, post(author, k)) for k in range(4) for author, gender in AUTHORS.items()]


def save_csv(folder, rows=ROWS):
    path = folder / "blogtext.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for author, gender, text in rows:
            writer.writerow((author, gender, 24, "Student", "Leo", "14,May,2004", text))
    return path


def save_folder(folder, rows=ROWS):
    blogs = folder / "blogs"
    blogs.mkdir()
    by_author = {}
    for author, gender, text in rows:
        by_author.setdefault((author, gender), []).append(text)
    for (author, gender), texts in by_author.items():
        inside = "".join(f"<date>14,May,2004</date>\n<post>\n {t}\n</post>\n" for t in texts)
        name = f"{author}.{gender}.24.indUnk.Leo.xml"
        (blogs / name).write_text(f"<Blog>\n{inside}</Blog>", encoding="utf-8")
    return blogs


def texts(example):
    return PROMPT.fullmatch(example.prompt).groups()


def author_of(text):
    return re.match(r"Author (\d+) ", text)[1]


@pytest.fixture(params=[save_csv, save_folder], ids=["csv", "folder"])
def save(request):
    return request.param


def test_pairs_gold_and_rule(tmp_path, save):
    dataset, gold = load_task("author-gender", save(tmp_path))
    assert len(dataset) == 12  # as many pairs as there are women
    used = []
    for example, label in zip(dataset.examples, gold, strict=True):
        genders = [AUTHORS[author_of(text)] for text in texts(example)]
        assert sorted(genders) == ["female", "male"]
        assert label == (genders[0] == "male")
    for c in dataset.constraints:
        assert c.allowed == ((False, True), (True, False))
        assert texts(dataset.examples[c.first]) == texts(dataset.examples[c.second])[::-1]
        used += [author_of(text) for text in texts(dataset.examples[c.first])]
    assert len(dataset.constraints) == 6
    assert len(set(used)) == len(used) == 12
    assert dataset.label_space == LabelSpace((" False", " True"))


def test_both_forms_give_the_same_data(tmp_path):
    one, gold = load_task("author-gender", save_csv(tmp_path), seed=4)
    other, other_gold = load_task("author-gender", save_folder(tmp_path), seed=4)
    assert one == other
    assert gold.tolist() == other_gold.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_swapping_all_genders_changes_gold_alone(tmp_path, save, seed):
    """Gender makes the pairs; which side is whose must show nowhere but in gold."""
    swapped = [(author, SWAPPED[gender], text) for author, gender, text in ROWS]
    (tmp_path / "swapped").mkdir()
    one, gold = load_task("author-gender", save(tmp_path), seed=seed, limit=8)
    other, other_gold = load_task(
        "author-gender", save(tmp_path / "swapped", swapped), seed=seed, limit=8
    )
    assert one == other
    assert one.fingerprint() == other.fingerprint()
    assert (gold + other_gold).tolist() == [1] * len(one)


def test_the_first_claim_is_true_half_the_time(tmp_path):
    rows = [(str(k), "male" if k % 2 else "female", post(k, 0)) for k in range(800)]
    _, gold = load_task("author-gender", save_csv(tmp_path, rows))
    assert gold.sum() == 400
    assert 0.42 < gold[::2].mean() < 0.58


def test_seed_and_limit(tmp_path, save):
    path = save(tmp_path)
    whole, whole_gold = load_task("author-gender", path, seed=1)
    part, gold = load_task("author-gender", path, seed=1, limit=5)
    assert len(part) == 4
    known = dict(zip(whole.examples, whole_gold.tolist(), strict=True))
    assert [known[example] for example in part.examples] == gold.tolist()
    assert whole == load_task("author-gender", path, seed=1)[0]
    other, _ = load_task("author-gender", path, seed=2)
    assert {texts(e) for e in whole.examples} != {texts(e) for e in other.examples}


def test_every_post_of_an_author_can_be_drawn(tmp_path, save):
    path = save(tmp_path)
    drawn = {
        text
        for seed in range(40)
        for example in load_task("author-gender", path, seed=seed)[0].examples
        for text in texts(example)
    }
    assert drawn == {text for _, _, text in ROWS}


def test_short_posts_are_passed_over_and_long_ones_cut(tmp_path, save):
    rows = [
        *[(author, gender, f"Author {author} is brief") for author, gender in AUTHORS.items()],
        *[(author, gender, post(author, 1, 900)) for author, gender in AUTHORS.items()],
        ("7", "female", "x" * 90),
    ]
    path = save(tmp_path, rows)
    dataset, _ = load_task("author-gender", path)
    for example in dataset.examples:
        for text in texts(example):
            whole = post(author_of(text), 1, 900)
            assert whole.startswith(text + " ")
            assert 390 < len(text) <= 400
    brief, _ = load_task("author-gender", path, min_chars=1, max_chars=30, seed=3)
    assert any("is brief" in example.prompt for example in brief.examples)
    assert max(len(text) for example in brief.examples for text in texts(example)) <= 30


def test_a_text_without_blanks_is_cut_hard(tmp_path):
    rows = [("1", "male", "x" * 900), ("2", "female", "y" * 400)]
    dataset, _ = load_task("author-gender", save_csv(tmp_path, rows))
    assert set(texts(dataset.examples[0])) == {"x" * 400, "y" * 400}


def test_posts_longer_than_the_csv_limit(tmp_path):
    before = csv.field_size_limit()
    rows = [("1", "male", "long " * 40_000), ("2", "female", post("2", 0))]
    dataset, _ = load_task("author-gender", save_csv(tmp_path, rows))
    assert len(dataset) == 2
    assert csv.field_size_limit() == before


def test_a_text_of_two_authors_is_used_once(tmp_path, save):
    quiz = "What is your favourite colour and why is it blue? " * 4
    rows = [("1", "male", quiz), ("2", "female", quiz), *ROWS[:6]]
    dataset, _ = load_task("author-gender", save(tmp_path, rows))
    assert all(len(set(texts(example))) == 2 for example in dataset.examples)


def test_text_is_made_one_line_without_entities(tmp_path, save):
    rows = [
        ("1", "Male", "Tom &amp; I\n\n  said&nbsp;hi\t &eacute; " * 9),
        ("2", "female", post("2", 0)),
    ]
    dataset, _ = load_task("author-gender", save(tmp_path, rows))
    assert "Tom & I said hi é Tom & I" in dataset.examples[0].prompt


def test_malformed_xml_and_foreign_bytes(tmp_path):
    bodies = {
        "1.male.24.Student.Leo.xml": "<Blog><date>1</date><post>" + post("1", 0) + " < 5 & \xe9",
        "2.female.15.indUnk.Leo.xml": "<Blog><post>" + post("2", 0) + "<date>2</date><post>no",
        ".3.male.24.Student.Leo.xml": "hidden",
        "4.male.15.indUnk.Leo.xml": '<!DOCTYPE a [<!ENTITY e "boom">]><Blog></Blog>',
        "readme.txt": "no blog",
    }
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body.encode("latin-1"))
    dataset, _ = load_task("author-gender", tmp_path)
    assert sorted(texts(dataset.examples[0])) == [post("1", 0) + " < 5 & \ufffd", post("2", 0)]


def test_a_csv_in_the_authors_schema_is_read_as_before(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("id,choice,choice_2,consistency_id,label\n1,a,b,0,1\n2,b,a,0,0\n")
    dataset, gold = load_task("author-gender", path, max_chars=1)
    assert texts(dataset.examples[0]) == ("a", "b")
    assert gold.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "0 male and 0 female"),
        ([("1", "male", post("1", 0))], {}, r"1 male and 0 female .* lower min_chars"),
        (ROWS, {"min_chars": 9999}, "0 male and 0 female authors have a post of at least 9999"),
        ([*ROWS[:2], ("9", "m", "x")], {}, r"blogtext.csv, row 3: gender is 'm'; write male"),
        ([("1", "male", "x"), ("1", "female", "x")], {}, "author 1 is male in one place"),
        (ROWS, {"min_chars": 0}, "min_chars must be an integer of at least 1, got 0"),
        (ROWS, {"max_chars": 2.5}, "max_chars must be an integer"),
        (ROWS, {"max_char": 9}, "did you mean 'max_chars'"),
        (ROWS, {"limit": 1}, "limit 1 is smaller than group"),
    ],
)
def test_errors_are_one_line(tmp_path, rows, options, message):
    with pytest.raises(InputError, match=message) as caught:
        load_task("author-gender", save_csv(tmp_path, rows), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("extra", ["1,male", "1,male,a,b"])
def test_rows_of_other_lengths_are_named(tmp_path, extra):
    path = tmp_path / "blogs.csv"
    path.write_text(f"id,gender,text\n2,female,x\n{extra}\n")
    with pytest.raises(InputError, match=r"blogs.csv, row 2: not 3 fields as in the header"):
        load_task("author-gender", path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "contains no .xml file"),
        ("1.xml", "1.xml: not named <id>.<gender>.<age>"),
        ("1.man.24.Student.Leo.xml", "1.man.24.Student.Leo.xml: gender is 'man'"),
    ],
)
def test_folders_that_are_no_corpus(tmp_path, name, message):
    if name:
        (tmp_path / name).write_text("<Blog></Blog>")
    with pytest.raises(InputError, match=message):
        load_task("author-gender", tmp_path)
