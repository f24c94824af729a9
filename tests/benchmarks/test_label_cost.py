"""The table of costs: numbers of the plan, measured points, and where they go."""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace

import pytest

from run_fakes import REPOSITORY


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("label_cost")


def plan(n_rows: int) -> SimpleNamespace:
    return SimpleNamespace(
        n_rows=n_rows,
        n_prompts=4 * n_rows,
        n_tokens=100 * n_rows,
        memory_bytes=600 << 20,
        disk_bytes=n_rows << 10,
    )


def test_a_line_has_the_measured_point_of_about_as_many_rows(cost):
    runs = [{"n_tokens": 10**6, "seconds": s, "peak_mib": 2048} for s in (900, 1000, 1300)]
    measured = [cost.read_measured({"rows": 10_605, "runs": runs})]
    lines = cost.cost_table([plan(1_000), plan(10_000)], measured, rate=1000.0)
    assert lines[2] == "| 1,000 | 4,000 | 0.10 M | 1 min 40 s | 1.0 GiB | 1.0 MiB | - |"
    assert lines[3].endswith("| 16 min 40 s, 2.0 GiB (10,605 rows) |")


def test_the_table_replaces_the_one_of_the_page(cost):
    page = f"a\n{cost.BEGIN}\nold\n{cost.END}\nb\n"
    new = cost.replaced(page, "new")
    assert new == f"a\n{cost.BEGIN}\n\nnew\n\n{cost.END}\nb\n"
    assert cost.replaced(new, "new") == new
    with pytest.raises(SystemExit, match="lacks the marks"):
        cost.replaced("a", "new")


def test_the_page_has_the_marks(cost):
    page = (REPOSITORY / "docs" / "label-your-data.md").read_text(encoding="utf-8")
    assert page.count(cost.BEGIN) == page.count(cost.END) == 1
