"""The report of a labelling: its rows with their texts, its cores, gold from a column."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_cases import FOUND, HOSTILE, read_page, write_labelling

from benchmarks.report_examples import reviews_labelling
from icm_fast.cli import run as icm_fast_command
from icm_fast.errors import InputError
from icm_fast.labelling.stored import read_labelling
from icm_fast.reports import Request, read_report, render_page
from icm_fast.reports.charts import visible
from icm_fast.reports.content import Bars, Rows, Table


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_labelling(tmp_path, [f"text {k}" for k in range(6)])


def report_of(folder, **options):
    return read_report(Request((folder,), **options))


def only(report, kind):
    (found,) = [b for s in report.sections for b in s.blocks if isinstance(b, kind)]
    return found


def test_every_row_has_its_text_and_what_was_found(folder):
    report = report_of(folder)
    rows = only(report, Rows)
    assert rows.texts == [f"text {k}" for k in range(6)]
    assert rows.ids == [str(k) for k in range(6)]
    assert tuple(rows.found) == FOUND
    assert [rows.deciders[k] for k in rows.decided[:4]] == [
        *("known", "prediction", "prediction", "search")
    ]
    assert rows.deciders[rows.decided[4]] == "abstained"
    assert dict(rows.more)["votes"][:3] == ["0 of 2", "1 of 2", "2 of 2"]
    assert {tile.name: tile.value for tile in report.tiles}["rows labelled"] == "5 of 6"
    bars = {b.key: b for s in report.sections for b in s.blocks if isinstance(b, Bars)}
    assert dict(zip(bars["decided"].names, bars["decided"].values, strict=True)) == {
        **{"known": 1.0, "search": 1.0, "prediction": 3.0, "abstained": 1.0}
    }


def test_the_question_is_shown_as_it_was_asked(tmp_path):
    texts = [f"text {k}" for k in range(6)]
    more = {"instruction": "You sort tickets.", "descriptions": {"b": "a complaint"}}
    report = report_of(write_labelling(tmp_path, texts, **more))
    (section,) = [s for s in report.sections if s.key == "asked"]
    facts = dict(section.blocks[0].items)
    assert facts["Instruction"] == "You sort tickets."
    assert facts["Meaning of b"] == "a complaint"
    assert facts["Prompt"] == "{text} is"


def test_known_labels_are_not_judged_by_gold(folder):
    report = report_of(folder, gold="truth")
    (section,) = [s for s in report.sections if s.key == "gold"]
    facts = dict(section.blocks[1].items)
    # Row 0 is known, row 3 has no gold, row 4 no label: rows 1, 2 and 5 are left.
    assert facts["Rows with a found label and gold"] == "3 of 6"
    assert facts["Labels that agree with gold"] == "0.667"
    assert list(only(report, Rows).gold) == [0, 1, 0, -1, 1, 1]


@pytest.mark.parametrize(
    ("gold", "told"), [("text", "is what the prompt reads"), ("none", "no column 'none'")]
)
def test_gold_that_is_none_is_refused(folder, gold, told):
    with pytest.raises(InputError, match=told):
        report_of(folder, gold=gold)


def test_a_table_that_has_moved_can_be_named(folder, tmp_path, capsys):
    moved = tmp_path / "elsewhere.csv"
    (tmp_path / "table.csv").rename(moved)
    page = tmp_path / "page.html"
    assert icm_fast_command(["report", str(folder), "-o", str(page)]) == 2
    told = capsys.readouterr().err
    assert f"no longer at {tmp_path / 'table.csv'}; name its place with --data FILE" in told
    assert len(told.splitlines()) == 1
    command = ["report", str(folder), "-o", str(page), "--data", str(moved)]
    assert icm_fast_command(command) == 0
    assert read_page(page.read_text()).data["rows"]["texts"][0] == "text 0"


def test_a_table_that_has_changed_is_refused(folder, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(table.read_text().replace("text 3", "text 33"))
    with pytest.raises(InputError, match="has changed since it was labelled"):
        report_of(folder)


def test_markdown_and_unfinished_labellings_are_refused(folder, capsys):
    assert icm_fast_command(["report", str(folder)]) == 2
    assert "-o report.html" in capsys.readouterr().err
    (folder / "summary.json").unlink()
    with pytest.raises(InputError, match="not finished"):
        report_of(folder)


def test_hostile_texts_of_a_table_are_data(tmp_path):
    texts = [t.replace("\x00", "").replace("\x1b", "").replace("\x07", "") for t in HOSTILE]
    texts = [t for t in texts if not any("\ud800" <= c <= "\udfff" for c in t)]
    n = len(texts)
    folder = write_labelling(tmp_path, texts, found=[k % 2 for k in range(n)], decided=[2] * n)
    page = read_page(render_page(report_of(folder), "run"))
    shown = page.data["rows"]["texts"]
    assert [text.split() for text in shown] == [visible(text).split() for text in texts]
    assert len(page.all("script")) == 2
    assert not {"img", "iframe", "b"} & {tag for tag, _ in page.tags}


def test_violated_rules_are_listed(tmp_path):
    folder = write_labelling(
        tmp_path,
        [f"text {k}" for k in range(6)],
        found=(0, 1, 0, 0, 1, 0),
        decided=[2] * 6,
        rules=({"rule": "custom", "forbid": [["a", "b"]]},),
    )
    (section,) = [s for s in report_of(folder).sections if s.key == "constraints"]
    assert "are violated" in section.blocks[0].text
    table = section.blocks[1]
    assert isinstance(table, Table)
    assert table.rows[0] == ("0", "a", "1", "b")


def test_a_damaged_summary_is_refused(folder):
    path = folder / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "n_tokens_forwarded": "many"}))
    with pytest.raises(InputError, match="n_tokens_forwarded"):
        report_of(folder)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory) -> Path:
    return reviews_labelling(tmp_path_factory.mktemp("reviews"))


def test_all_movie_reviews_fit_a_page(reviews):
    report = report_of(reviews, gold="gold")
    rows = only(report, Rows)
    stored = read_labelling(reviews)
    assert len(rows.texts) == len(stored.decision.labels) == 10605
    assert rows.found == stored.decision.labels.tolist()
    table = next(
        b for s in report.sections if s.key == "cores" for b in s.blocks if isinstance(b, Table)
    )
    assert len(table.rows) == 3
    page = render_page(report, "run")
    assert len(page) < 2_500_000
    assert len(read_page(page).tags) < 2000  # the rows are data, not elements
