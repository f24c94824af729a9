"""The report of a search, from its folder: numbers, rows, concerns, gold apart from the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from report_cases import HOSTILE, read_page

import icm_fast
from icm_fast.cli import run as icm_fast_command
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.evaluation.report import run_report
from icm_fast.reports import Request, read_report, render_page
from icm_fast.reports.charts import visible
from icm_fast.reports.content import Bars, Columns, Lines, Rows
from icm_fast.reports.course import read_steps
from icm_fast.reports.pictures import picture
from icm_fast.reports.searches import own_texts
from icm_fast.runs.finished import read_run
from icm_fast.tasks.source import TaskSource
from icm_fast.types import Dataset, Example, LabelSpace
from run_fakes import FakeScorer, write_claims


@pytest.fixture(scope="module")
def claims(tmp_path_factory) -> Path:
    """A finished search of 24 claims with a pair of them in each group, and gold in their file."""
    folder = tmp_path_factory.mktemp("claims")
    write_claims(folder / "claims.jsonl")
    source = TaskSource("truthfulqa", str(folder / "claims.jsonl"), seed=3)
    dataset = source.load_dataset()
    icm_fast.search(
        dataset,
        model="fake",
        config=SearchConfig(preset="paper", max_evaluations=60, seed=3),
        output_dir=folder / "run",
        scorer=FakeScorer(len(dataset)),
        source=source,
    )
    return folder / "run"


def block(report, kind, key=None):
    found = [b for s in report.sections for b in s.blocks if isinstance(b, kind)]
    return next(b for b in found if key is None or b.key == key)


def report_of(*folders: Path, **options):
    return read_report(Request(folders, **options))


def test_the_numbers_are_those_of_the_run(claims):
    run, report = read_run(claims), report_of(claims)
    rows = block(report, Rows)
    assert rows.n_total == len(run.dataset) == len(rows.texts)
    assert list(rows.found) == run.labels.tolist()
    for label, sure, scores in zip(rows.found, rows.confidence, run.scores, strict=True):
        weights = np.exp(scores.astype(np.float64))
        assert sure == pytest.approx(weights[label] / weights.sum(), abs=1e-4)
    tiles = {tile.name: tile.value for tile in report.tiles}
    assert tiles["utility U"] == f"{run.summary['utility']:.2f}"
    assert tiles["mean confidence"] == f"{np.mean(rows.confidence):.2f}"
    assert [c.text for c in report.concerns] == [c["text"] for c in run.summary["concerns"]]


def test_the_course_has_every_move_once(claims):
    run, report = read_run(claims), report_of(claims)
    tried = [e for e in run.events if e["move"] not in ("init", "done")]
    moves = block(report, Columns, "moves")
    accepted, rejected = (sum(counts) for _, counts in moves.series)
    assert accepted == sum(e["accepted"] for e in tried)
    assert accepted + rejected == len(tried)
    line = block(report, Lines, "utility").series[0]
    assert line.points[-1][1] == run.events[-1]["utility_after"]


def test_without_gold_nothing_of_it_is_there(claims):
    report = report_of(claims)
    assert "gold" not in [section.key for section in report.sections]
    assert block(report, Rows).gold is None
    assert read_page(render_page(report, "x")).data["rows"]["gold"] is None


def test_gold_is_read_from_the_task_and_stands_apart(claims):
    report = report_of(claims, gold="task")
    (section,) = [s for s in report.sections if s.key == "gold"]
    rows = block(report, Rows)
    agree = np.mean(np.array(rows.found) == np.array(rows.gold))
    facts = dict(section.blocks[1].items)
    assert facts["Labels that agree with gold"] == f"{agree:.3f}"
    curve = block(report, Lines, "coverage").series[0].points
    assert curve[-1] == (1.0, pytest.approx(agree))
    # Everything else says the same as without gold.
    plain = report_of(claims)
    assert report.tiles == plain.tiles
    assert report.concerns == plain.concerns
    untouched = [s for s in report.sections if s.key not in ("gold", "rows")]
    assert untouched == [s for s in plain.sections if s.key != "rows"]


def test_other_gold_than_that_of_the_task_is_refused(claims):
    with pytest.raises(InputError, match="--gold task"):
        report_of(claims, gold="column")


def test_gold_of_a_custom_task_may_be_a_column_of_its_data(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("text,truth\none,no\ntwo,yes\nthree,\nfour,no\n")
    options = {"template": "{text} is", "labels": [" no", " yes"]}
    source = TaskSource("custom", str(table), options=options)
    dataset = source.load_dataset()
    folder = tmp_path / "run"
    icm_fast.search(
        dataset,
        model="fake",
        config=SearchConfig(max_evaluations=3),
        output_dir=folder,
        scorer=FakeScorer(len(dataset)),
        source=source,
    )
    assert block(report_of(folder, gold="truth"), Rows).gold == [0, 1, -1, 0]
    with pytest.raises(InputError, match="has no gold"):
        report_of(folder, gold="task")
    with pytest.raises(InputError, match="in column 'lie'; name another one"):
        report_of(folder, gold="lie")


def test_a_limit_of_rows_keeps_both_ends(claims):
    report = report_of(claims, n_rows=6)
    everything = sorted(block(report_of(claims), Rows).confidence)
    kept = sorted(block(report, Rows).confidence)
    assert kept == everything[:3] + everything[-3:]
    (section,) = [s for s in report.sections if s.key == "rows"]
    assert "3 least certain and the 3 most certain of 24" in section.blocks[0].text
    with pytest.raises(InputError, match="ask for 1 or more"):
        report_of(claims, n_rows=0)


def test_hostile_texts_of_a_search_are_data(tmp_path):
    texts = [t for t in HOSTILE if "\ud83d" not in t and t.strip()]
    examples = tuple(
        Example(f"{k} {text}", f"Text: {text}\nIt is", group=text) for k, text in enumerate(texts)
    )
    dataset = Dataset(examples, LabelSpace((" <b>no</b>", " </script>yes")), name="<i>toy</i>")
    icm_fast.search(
        dataset,
        model="<u>fake</u>",
        config=SearchConfig(max_evaluations=4),
        output_dir=tmp_path / "run",
        scorer=FakeScorer(len(dataset)),
    )
    page = read_page(render_page(report_of(tmp_path / "run"), "run"))
    assert page.data["rows"]["texts"] == [visible(text.strip()) for text in texts]
    assert not {"b", "i", "u", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert len(page.all("script")) == 2


def test_damaged_events_are_left_out():
    odd = {"move": "sweep", "accepted": True, "iteration": "1", "utility_after": float("nan")}
    (step,) = read_steps([odd | {"temperature": None, "n_asks": 10**400, "chain": True}])
    assert (step.iteration, step.utility, step.temperature, step.n_asks) == (0, None, None, None)
    assert step.chain == 0


def test_the_words_of_the_template_are_left_out():
    assert own_texts(["Review: a b\nIt is", "Review: c\nIt is"]) == ["a b", "c"]
    assert own_texts(["the cat", "the dog"]) == ["the cat", "the dog"]
    assert own_texts(["only one: x"]) == ["only one: x"]
    assert own_texts(["same: x", "same: x"]) == ["x", "x"]


def test_the_command_writes_a_page_or_markdown(claims, tmp_path, capfdbinary):
    page, markdown = tmp_path / "report.html", tmp_path / "report.md"
    assert icm_fast_command(["report", str(claims), "-o", str(page)]) == 0
    assert icm_fast_command(["report", str(claims), "-o", str(markdown)]) == 0
    assert read_page(page.read_text()).all("h1")
    assert markdown.read_text() == run_report(read_run(claims))
    capfdbinary.readouterr()
    assert icm_fast_command(["report", str(claims), "--format", "html"]) == 0
    assert capfdbinary.readouterr().out == page.read_bytes()
    assert icm_fast_command(["report", str(claims), "-o", str(page), "--format", "markdown"]) == 0
    assert page.read_text() == markdown.read_text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gold", "task"], "--gold is for pages"),
        (["--figures", "x"], "--figures is for pages"),
        (["--format", "pdf"], "unknown format 'pdf'"),
    ],
)
def test_options_that_do_not_fit_are_refused(claims, options, told, capsys):
    assert icm_fast_command(["report", str(claims), *options]) == 2
    assert told in capsys.readouterr().err


def test_every_figure_is_written_as_png_and_svg(claims, tmp_path):
    command = ["report", str(claims), "-o", str(tmp_path / "r.html")]
    assert icm_fast_command([*command, "--figures", str(tmp_path / "one")]) == 0
    figures = report_of(claims).figures
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert set(files) == {f"{f.key}.{kind}" for f in figures for kind in ("png", "svg")}
    assert {"utility", "temperature", "moves", "labels", "confidence"} <= {f.key for f in figures}
    assert all(content.startswith((b"\x89PNG", b"<?xml")) for content in files.values())
    assert picture(figures[0], "svg") == files[f"{figures[0].key}.svg"]  # equal bytes


def test_figures_of_gold_and_of_hostile_names_are_drawn(claims):
    by_key = {figure.key: figure for figure in report_of(claims, gold="task").figures}
    assert picture(by_key["calibration"], "png").startswith(b"\x89PNG")
    names = ("$x_{$", "\\frac{1}", "a\x00b\u202e", "$$")
    bars = Bars("b", "$t$", "", names, (1.0, 2.0, 0.0, 1.0), names, "", ((0.5, 1.5),) * 4)
    assert picture(bars, "svg").startswith(b"<?xml")


def test_an_unfinished_run_is_refused(claims, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    for path in claims.iterdir():
        if path.name != "summary.json":
            (copy / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="not finished"):
        report_of(copy)


def test_a_search_without_a_source_has_no_gold(tmp_path):
    examples = tuple(Example(f"e{k}", f"Text {k}") for k in range(4))
    dataset = Dataset(examples, LabelSpace((" a", " b")), name="toy")
    config = SearchConfig(max_evaluations=2)
    icm_fast.search(
        dataset, model="fake", config=config, output_dir=tmp_path / "r", scorer=FakeScorer(4)
    )
    assert json.loads((tmp_path / "r/summary.json").read_text())["n_examples"] == 4
    with pytest.raises(InputError, match="leave out --gold"):
        report_of(tmp_path / "r", gold="task")
