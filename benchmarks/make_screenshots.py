"""Pictures of reports for the documents: ``python -m benchmarks.make_screenshots RUNS IMAGES``.

RUNS holds the folder ``demo`` of a demonstration; runs with simulated scores are made beside it.
Chromium is that of the system, or the one that ICM_FAST_CHROMIUM names.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.report_examples import doubtful_search, reviews_labelling
from icm_fast.reports import Request, read_report, render_page

_COLOURS = 96
_MOST_BYTES = 150_000


@dataclass(frozen=True)
class Shot:
    """One picture: of a page, from an element on, in a window of a size and scheme."""

    name: str
    page: str
    scheme: str
    width: int
    height: int
    start: str = "body"


SHOTS = (
    Shot("report-search-light", "demo", "light", 1280, 1240),
    Shot("report-labelling-dark", "labelling", "dark", 1280, 1240, "#how"),
    Shot("report-concerns-light", "doubtful", "light", 1280, 960),
    Shot("report-phone-dark", "labelling", "dark", 390, 1500),
)


def main(runs: Path, images: Path) -> None:
    """Make the runs that are missing, their pages, and the pictures."""
    pages = runs / "pages"
    pages.mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    for made in ("labelling", "doubtful"):
        shutil.rmtree(runs / made, ignore_errors=True)
    requests = {
        "demo": Request((runs / "demo",), gold="task"),
        "labelling": Request((reviews_labelling(runs / "labelling"),), gold="gold"),
        "doubtful": Request((doubtful_search(runs / "doubtful"),)),
    }
    for name, request in requests.items():
        html = render_page(read_report(request), name)
        (pages / f"{name}.html").write_text(html, encoding="utf-8")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        for shot in SHOTS:
            picture = _taken(browser, pages / f"{shot.page}.html", shot)
            content = _small(picture)
            assert len(content) < _MOST_BYTES, (shot.name, len(content))
            (images / f"{shot.name}.png").write_bytes(content)
            print(f"{shot.name}.png: {len(content):,} bytes")
        browser.close()


def _chromium() -> str | None:
    named = os.environ.get("ICM_FAST_CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("chromium-browser")


def _taken(browser: Any, page_file: Path, shot: Shot) -> bytes:
    context = browser.new_context(
        viewport={"width": shot.width, "height": shot.height},
        color_scheme=shot.scheme,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(page_file.resolve().as_uri())
    page.evaluate("(place) => document.querySelector(place).scrollIntoView()", shot.start)
    page.wait_for_timeout(300)
    content: bytes = page.screenshot()
    context.close()
    return content


def _small(content: bytes) -> bytes:
    image = (
        Image.open(io.BytesIO(content)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    )
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
