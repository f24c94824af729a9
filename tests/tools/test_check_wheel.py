"""The checks of wheels fail for what they are there to find."""

from __future__ import annotations

import runpy
import zipfile
from pathlib import Path

import pytest

from run_fakes import REPOSITORY

TOOL = runpy.run_path(str(REPOSITORY / "tools" / "check_wheel.py"))
GOOD = ("icm_fast/_core.cpython-311-x86_64-linux-gnu.so", "icm_fast/py.typed", "icm_fast/a.py")


def wheel(folder: Path, names: tuple[str, ...]) -> Path:
    path = folder / "icm_fast-0.2.0-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(path, "w") as packed:
        for name in (*names, "icm_fast-0.2.0.dist-info/METADATA"):
            packed.writestr(name, name)
    return path


def test_a_good_wheel_passes(tmp_path, capsys):
    path = wheel(tmp_path, GOOD)
    TOOL["check_content"](path)
    TOOL["check_size"](path)
    assert path.name in capsys.readouterr().out


@pytest.mark.parametrize(
    "names", [GOOD[1:], GOOD[:1], (*GOOD, "icm_fast/a.cpp"), (*GOOD, "tests/a.py")]
)
def test_a_wheel_that_lacks_or_holds_something_does_not(names, tmp_path):
    with pytest.raises(SystemExit):
        TOOL["check_content"](wheel(tmp_path, names))


def test_a_large_one_does_not(tmp_path):
    path = tmp_path / "a.whl"
    with path.open("wb") as file:
        file.truncate(TOOL["LARGEST"])
    with pytest.raises(SystemExit, match="stays below"):
        TOOL["check_size"](path)


def test_no_compiler_is_on_the_path(tmp_path):
    found = Path(TOOL["path_without_compilers"](tmp_path / "bin"))
    assert (found / "sh").exists()
    assert not any((found / name).exists() for name in TOOL["COMPILERS"])
