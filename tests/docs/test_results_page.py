"""docs/results.md is what benchmarks/make_results.py makes of the files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from document_blocks import REPOSITORY


@pytest.fixture
def make_results() -> ModuleType:
    path = REPOSITORY / "benchmarks/make_results.py"
    spec = importlib.util.spec_from_file_location("make_results", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_what_the_files_give(make_results: ModuleType) -> None:
    assert make_results.main(["--check"]) == 0


def test_check_sees_a_stale_page(
    make_results: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "results.md"
    monkeypatch.setattr(make_results, "PAGE", page)
    assert make_results.main(["--check"]) == 1
    assert make_results.main([]) == 0
    assert make_results.main(["--check"]) == 0
    page.write_text(page.read_text().replace("0.87", "0.97"))
    assert make_results.main(["--check"]) == 1
    assert "make_results.py" in capsys.readouterr().err


def test_every_results_file_is_on_the_page(make_results: ModuleType) -> None:
    used = {path.stem for path in make_results.RESULTS.glob("*.json")}
    make_results.read.cache_clear()
    reading: list[str] = []
    original = make_results.read

    def noted(name: str) -> object:
        reading.append(name)
        return original(name)

    make_results.read = noted
    make_results.page()
    assert not used - set(reading)


def test_intervals_and_differences(make_results: ModuleType) -> None:
    assert make_results.share(0.874, (0.8449, 0.9004)) == "0.87 [0.84, 0.90]"
    difference = {"difference": 0.0864, "interval": [-0.00001, 0.20899]}
    assert make_results.points(difference) == "+8.6 [-0.0, +20.9]"
    with pytest.raises(KeyError, match="no difference"):
        make_results.difference("showcase-small", "reviews", "icm/nobody")
