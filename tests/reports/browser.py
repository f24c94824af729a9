"""A headless Chromium that says what it loads and what goes wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
AXE = REPOSITORY / "build/browser/axe.min.js"
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> Any:
    """A running browser; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="run `make test-browser`")
    named = os.environ.get("ICM_FAST_CHROMIUM")
    found = [named] if named else [path for name in _PROGRAMS if (path := shutil.which(name))]
    playwright = api.sync_playwright().start()
    try:
        program = found[0] if found else playwright.chromium.executable_path
        if not Path(program).exists():
            pytest.skip("no Chromium; install it, or name one in ICM_FAST_CHROMIUM")
        # Containers have no name spaces for its sandbox; the pages are our own.
        return playwright, playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"]
        )
    except BaseException:
        playwright.stop()
        raise


@contextmanager
def opened(browser: Any, address: str, *, width: int = 1280, scheme: str = "light") -> Iterator:
    """A page in a window of its own; whatever it complains about or loads fails the test."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    page.on("requestfailed", lambda request: faults.append(f"failed: {request.url[:80]}"))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("data:", address.partition("?")[0].rpartition("/")[0]))
            else faults.append(f"loads {request.url}")
        ),
    )
    page.goto(address)
    try:
        yield page
        assert not faults, faults
    finally:
        context.close()


def violations(page: Any) -> list[str]:
    """What axe-core finds wrong with a page as it stands."""
    page.evaluate(AXE.read_text(encoding="utf-8"))  # not a script of the page: its policy holds
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{v['id']}: {node['html'][:160]}" for v in found for node in v["nodes"]]
