"""The installed package: native module, kernels, metadata; and the layout of the tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from importlib import metadata, resources
from pathlib import Path

import pytest

import icm_fast
from icm_fast import _core

REPOSITORY = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel_files() -> list[str]:
    """Files of the installed wheel; an editable install has none of the package's own."""
    files = [str(file) for file in metadata.files("icm-fast") or ()]
    if "icm_fast/__init__.py" not in files:
        pytest.skip("icm_fast is installed in editable mode")
    return files


def test_the_native_module_answers():
    assert _core.RangeAllocator().allocate(3) == 0
    assert Path(_core.__file__).suffix == ".so"


def public_names(thing) -> set[str]:
    return {name for name in vars(thing) if not name.startswith("_")}


def test_the_stub_names_what_the_native_module_has():
    stub = ast.parse((REPOSITORY / "python" / "icm_fast" / "_core.pyi").read_text())
    parts = [node for node in stub.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert {node.name for node in parts} == public_names(_core)
    for node in parts:
        if isinstance(node, ast.ClassDef):
            methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            assert methods - {"__init__"} == public_names(getattr(_core, node.name)), node.name


def test_kernels_are_a_part_of_the_package():
    from icm_fast.kernels.tree_attention import naive

    assert naive.__name__ == "icm_fast.kernels.tree_attention.naive"
    assert callable(naive.tree_attention)


def test_the_wheel_holds_every_module_once(wheel_files):
    expected = {
        str(path.relative_to(REPOSITORY / root))
        for root, folder in (("python", "python/icm_fast"), (".", "kernels"))
        for path in (REPOSITORY / folder).rglob("*.py")
    }
    expected = {f if f.startswith("icm_fast/") else f"icm_fast/{f}" for f in expected}
    counts = Counter(file for file in wheel_files if file.endswith(".py"))
    assert set(counts) == expected
    assert set(counts.values()) == {1}
    assert any(file.startswith("icm_fast/kernels/tree_attention/") for file in counts)


def test_the_wheel_holds_no_sources_of_native_code(wheel_files):
    suffixes = {Path(file).suffix for file in wheel_files if file.startswith("icm_fast/")}
    pages = {".html", ".css", ".js"}
    assert suffixes <= {".py", ".pyi", ".pyc", ".so", ".typed", ".yaml", ".txt", *pages}


def test_the_experiments_travel_with_the_package(wheel_files):
    written = {
        path.name for path in (REPOSITORY / "python/icm_fast/experiments/definitions").iterdir()
    }
    folder = "icm_fast/experiments/definitions/"
    packed = {file.removeprefix(folder) for file in wheel_files if file.startswith(folder)}
    assert packed == written >= {"main.yaml"}


def test_the_parts_of_pages_travel_with_the_package(wheel_files):
    reports = REPOSITORY / "python/icm_fast/reports"
    written = {path.name for path in reports.iterdir() if path.is_file() and path.suffix != ".py"}
    folder = "icm_fast/reports/"
    packed = {file.removeprefix(folder) for file in wheel_files if file.startswith(folder)}
    parts = ("page", "review")
    assert written == {f"{name}.{kind}" for name in parts for kind in ("html", "css", "js")}
    assert written <= packed


def test_types_and_licence_travel_with_the_package(wheel_files):
    assert "icm_fast/py.typed" in wheel_files
    assert "icm_fast/_core.pyi" in wheel_files
    assert any(re.search(r"icm_fast-.*\.dist-info/.*LICENSE$", file) for file in wheel_files)


def test_metadata_match_the_project_file():
    assert icm_fast.__version__ == metadata.version("icm-fast")
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert metadata.metadata("icm-fast")["License-Expression"] == "Apache-2.0"
    assert resources.files("icm_fast").joinpath("py.typed").is_file()


def test_the_change_log_knows_this_version():
    release, _, rest = icm_fast.__version__.partition(".dev")
    assert f"## {release}" in (REPOSITORY / "CHANGELOG.md").read_text()
    assert re.fullmatch(r"(\d+\+g[0-9a-f]+)?", rest)


def test_the_command_is_installed():
    command = Path(sys.executable).with_name("icm-fast")
    done = subprocess.run([command, "version"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"icm-fast {icm_fast.__version__}" in done.stdout.replace("_", "-")


def test_every_dependency_is_pinned():
    pinned = {
        line.split("==")[0].lower()
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in wanted}
    assert names <= pinned


def test_test_files_have_names_of_their_own():
    """Pytest imports them by their bare names."""
    files = (REPOSITORY / "tests").rglob("*.py")
    names = Counter(path.stem for path in files if path.stem not in ("conftest", "__init__"))
    assert [name for name, count in names.items() if count > 1] == []


def test_hooks_run_the_pinned_versions():
    pinned = set((REPOSITORY / "constraints.txt").read_text().splitlines())
    hooks = (REPOSITORY / ".pre-commit-config.yaml").read_text()
    named = re.findall(r"\[([\w-]+==[\d.]+)\]", hooks)
    assert named
    assert set(named) <= pinned
