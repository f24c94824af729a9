"""The version of a build: of a tag, of commits after it, of a source distribution, without git."""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path

import pytest

from run_fakes import REPOSITORY

TOOL = runpy.run_path(str(REPOSITORY / "tools" / "version_from_git.py"))
version = TOOL["version"]


def git(tree: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", *identity, *words]
    return subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def tree(tmp_path) -> Path:
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## 0.3.0, unreleased\n\n## 0.2.0\n")
    return tmp_path


def commit(tree: Path, name: str) -> str:
    (tree / name).write_text(name)
    git(tree, "add", ".")
    git(tree, "commit", "-qm", name)
    return git(tree, "rev-parse", "--short=7", "HEAD").strip()


def test_a_tree_without_git_has_the_version_of_its_changes(tree):
    assert version(tree) == "0.3.0"
    assert TOOL["dynamic_metadata"]({}, {})["version"].startswith("0.")


def test_a_source_distribution_keeps_what_it_was_built_as(tree):
    (tree / "PKG-INFO").write_text("Metadata-Version: 2.2\nName: icm-fast\nVersion: 0.2.1rc1\n\nA")
    assert version(tree) == "0.2.1rc1"


def test_commits_and_tags(tree, monkeypatch):
    git(tree, "init", "-q")
    assert version(tree) == "0.3.0"  # no commit yet
    first = commit(tree, "a")
    assert version(tree) == f"0.3.0.dev1+g{first}"
    git(tree, "tag", "v0.2.0")
    git(tree, "tag", "something-else")
    assert version(tree) == "0.2.0"
    second = commit(tree, "b")
    assert version(tree) == f"0.3.0.dev1+g{second}"
    git(tree, "tag", "v0.3.0rc1")
    assert version(tree) == "0.3.0rc1"
    monkeypatch.setenv("PATH", "")
    assert version(tree) == "0.3.0"


def test_a_change_log_without_a_version_is_refused(tree):
    (tree / "CHANGELOG.md").write_text("# Changes\n")
    with pytest.raises(ValueError, match="has no heading"):
        version(tree)
