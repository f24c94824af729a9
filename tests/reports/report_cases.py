"""Pages as tests read them, texts that would do harm as markup, and a small labelling."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from icm_fast.labelling import Labelling, LabelTask, open_table
from icm_fast.labelling.config import LabelConfig
from icm_fast.labelling.evidence import Decision
from icm_fast.labelling.folder import open_labelling
from icm_fast.labelling.scan import scan_table
from icm_fast.labelling.stored import packed_decision, stored_settings

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "</SCRIPT ><img src=x onerror=alert(3)>",
    "<!--<script>",
    "-->",
    "]]>",
    "<img src=https://example.org/x.png onerror=alert(4)>",
    "<svg onload=alert(5)>",
    "<a href='javascript:alert(6)'>here</a>",
    "<style>body{display:none}</style>",
    "</style><link rel=stylesheet href=//example.org/x.css>",
    "<iframe srcdoc='<script>alert(7)</script>'></iframe>",
    '" onmouseover="alert(8)" x="',
    "' autofocus onfocus='alert(9)",
    "&lt;script&gt; &amp; &#60; &quot;",
    "$title ${policy} $$ {{data}}",
    "left \u202e thgir \u2066 apart \u200f",
    "null \x00 byte, escape \x1b[31m, bell \x07",
    "half a character \ud83d and \udc00",
    "line\u2028separator\u2029and\r\nbreaks\ttabs",
    "\ufeff``` | **bold** [x](y) \\u003c",
)

VOID = {"meta", "link", "input", "col", "br", "img"}


@dataclass
class Page(HTMLParser):
    """What a parser finds in a page.

    Attributes:
        tags: Names with attributes, in order.
        texts: Texts outside style and script, in order.
        inside: Content of each style and script, by name.
        unclosed: Elements that are open at the end.
    """

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    inside: list[tuple[str, str]] = field(default_factory=list)
    unclosed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed, tag
        assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.unclosed and self.unclosed[-1] in ("style", "script"):
            self.inside.append((self.unclosed[-1], data))
        else:
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def data(self) -> dict[str, Any]:
        """The JSON of the page."""
        (text,) = [content for kind, content in self.inside if content.startswith("{")]
        found: dict[str, Any] = json.loads(text)
        return found


def read_page(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.unclosed == []
    return page


GOLD = ("a", "b", "a", "", "b", "b")
FOUND = (0, 1, 1, 0, -1, 1)
DECIDED = (0, 2, 2, 1, 3, 2)


def write_labelling(folder: Path, texts, *, found=FOUND, decided=DECIDED, rules=(), **more) -> Path:
    """A finished labelling without cores: labels, confidence and how each came about are given."""
    table = folder / "table.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "truth", "group"))
        gold = [GOLD[k % len(GOLD)] for k in range(len(texts))]
        writer.writerows((t, g, k // 2) for k, (t, g) in enumerate(zip(texts, gold, strict=True)))
    task = LabelTask(
        text="text", labels=("a", "b"), template="{text} is", group="group", rules=rules, **more
    )
    opened_table, config = open_table(str(table)), LabelConfig()
    scan = scan_table(opened_table, task)
    n = len(texts)
    sure = np.linspace(0.5, 0.95, n)
    probabilities = np.stack([1 - sure, sure], axis=1).astype(np.float32)
    decision = Decision(
        labels=np.array(found, np.int32),
        confidence=sure,
        probabilities=probabilities,
        decided_by=np.array(decided, np.int8),
        votes=np.array([k % 3 for k in range(n)], np.int32),
        n_views=2,
        shares=np.array([0.5, 0.5]),
    )
    with open_labelling(folder / "run") as opened:
        opened.keep_identity({"data": scan.digest, "n_rows": n, "template": task.template})
        opened.write_settings(stored_settings(opened_table, task, config.to_dict()))
        opened.write_decision(packed_decision(decision))
        opened.write_summary(Labelling(task, decision, 100, 2.0, config).summary())
    return folder / "run"
