"""The Makefile in a folder whose name holds a blank."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_no_recipe_breaks_a_path_with_a_blank(tmp_path):
    folder = tmp_path / "a blank"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "CMakeLists.txt"):
        shutil.copyfile(REPOSITORY / name, folder / name)
    for name in ("README.md", "LICENSE", "csrc/cuda/CMakeLists.txt", "tools/version_from_git.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name in ("python", "kernels"):
        (folder / name).mkdir()
    targets = ["install", "lint", "types", "demo", "assistant", "tidy", "native-tests", "sanitize"]
    done = subprocess.run(
        ["make", "-n", *targets], cwd=folder, capture_output=True, text=True, check=True
    )
    recipes = done.stdout.replace("\\\n", " ").splitlines()
    named = [line for line in recipes if "a blank" in line]
    assert named
    for line in named:
        assert not any(word.startswith("blank") for word in shlex.split(line)), line
