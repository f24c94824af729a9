"""The page: it loads nothing, allows nothing but its own code, and shows all texts as texts."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from importlib import resources
from itertools import pairwise

import pytest
from report_cases import HOSTILE, read_page

from icm_fast.reports.charts import visible
from icm_fast.reports.content import (
    Bars,
    Columns,
    Concern,
    Facts,
    Folded,
    Lines,
    Paragraph,
    Report,
    Rows,
    Section,
    Series,
    Table,
    Tile,
)
from icm_fast.reports.page import data_text, render_page


def everything(text: str, n: int = 1) -> Report:
    """A report whose every text is ``text``."""
    rows = Rows(
        labels=(text, f"{text}2"),
        ids=[text] * n,
        texts=[text] * n,
        found=[0] * n,
        confidence=[0.75] * n,
        decided=[0] * n,
        deciders=(text,),
        more=((text, [text] * n),),
        n_total=n,
        what_confidence=text,
        gold=[-1] * n,
    )
    series = (Series(text, ((0.0, 1.0), (1.0, 2.0))), Series(text, ((0.5, 1.5),), markers=True))
    figures = (
        Bars("bars", text, text, (text,), (1.0,), (text,), text, ((0.5, 1.0),)),
        Columns("columns", text, text, text, text, (0.0, 1.0), ((text, (1.0,)), (text, (2.0,)))),
        Lines("lines", text, text, text, text, series, reference=text),
    )
    table = Table(text, (text, text), ((text, text),), frozenset((1,)))
    facts = Facts(((text, text),))
    blocks = (Paragraph(text), facts, table, *figures, rows, Folded(text, (facts, table)))
    return Report(
        kind=text,
        title=text,
        lead=text,
        tiles=(Tile(text, text, text),),
        sections=(Section("everything", text, blocks),),
        concerns=(Concern(text, text),),
    )


HARMLESS = render_page(everything("harmless"), "harmless")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_shown_and_change_no_markup(text):
    html = render_page(everything(text), text)
    html.encode()  # no half of a character is left
    page = read_page(html)
    as_written = [(tag, sorted(attributes)) for tag, attributes in page.tags]
    harmless = [(tag, sorted(attributes)) for tag, attributes in read_page(HARMLESS).tags]
    assert as_written == harmless
    shown = visible(text)
    assert page.text.count(shown) >= 20
    assert page.data["rows"]["texts"] == [shown]
    assert page.data["rows"]["labels"][0] == page.data["rows"]["ids"][0] == shown
    assert page.data["rows"]["more"] == [[shown, [shown]]]


@pytest.mark.parametrize("text", HOSTILE)
def test_the_data_hold_no_sign_of_markup(text):
    written = data_text({"text": text})
    assert not set("<>&\u2028\u2029\x00") & set(written)
    assert written.isascii()


def test_nothing_is_loaded_from_elsewhere():
    page = read_page(HARMLESS)
    links = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href", "formaction")
    ]
    assert "data:," in links
    assert all(value == "data:," or value.startswith("#") for value in links)
    assert not re.search(r"url\(|@import|https?://|//[a-z]", HARMLESS.split("</style>")[0])
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|eval|innerHTML|outerHTML)\b", _script())
    assert not re.search(r"insertAdjacentHTML|document\.write|new Function", _script())


def test_the_policy_allows_this_style_and_script_alone():
    page = read_page(HARMLESS)
    (meta,) = [m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in meta["content"].split(";"))
    hashes = {
        kind: f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for kind, text in page.inside
        if not text.startswith("{")
    }
    assert rules == {
        "default-src": "'none'",
        "style-src": hashes["style"],
        "script-src": hashes["script"],
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    # Neither needs a rule of its own: there is no attribute with style or code.
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name == "style" or name.startswith("on")]


def test_the_policy_comes_before_what_it_governs():
    tags = [tag for tag, _ in read_page(HARMLESS).tags]
    assert tags.index("meta") < tags.index("style") < tags.index("script")


def test_every_reference_has_its_element_and_names_are_unique():
    page = read_page(HARMLESS)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    named = [a["href"][1:] for a in page.all("a")]
    for key in ("aria-labelledby", "aria-describedby", "for"):
        named += [part for _, a in page.tags if key in a for part in a[key].split()]
    assert set(named) <= set(ids)


def test_headlines_are_in_order():
    levels = [int(tag[1]) for tag, _ in read_page(HARMLESS).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_every_figure_has_a_title_a_description_and_its_data():
    page = read_page(HARMLESS)
    figures = [a for tag, a in page.tags if tag == "svg" and a.get("role") == "img"]
    assert len(figures) == 3
    assert all(len(figure["aria-labelledby"].split()) == 2 for figure in figures)
    assert len(page.all("title")) == 1 + 3
    assert len(page.all("desc")) == 3
    captions = page.text.count("Data of: harmless")
    assert captions == 3


def test_equal_reports_are_equal_pages():
    assert render_page(everything("harmless"), "harmless") == HARMLESS


def test_many_rows_travel_as_data_and_not_as_markup():
    few, many = (len(render_page(everything("x", n), "x")) for n in (1, 1001))
    assert (many - few) / 1000 < 40


def test_the_parts_of_the_page_are_files_of_the_package():
    folder = resources.files("icm_fast.reports")
    for name in ("page.html", "page.css", "page.js"):
        assert folder.joinpath(name).is_file()


def _script() -> str:
    return resources.files("icm_fast.reports").joinpath("page.js").read_text(encoding="utf-8")


def test_the_script_is_modern_javascript(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    path = tmp_path / "page.js"
    path.write_text(_script())
    done = subprocess.run([node, "--check", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_text_that_is_not_escaped_is_found():
    planted = HARMLESS.replace(">harmless<", "><b>harmless</b><", 1)
    assert len(read_page(planted).tags) == len(read_page(HARMLESS).tags) + 1
