"""The version of a build: from the tag of its commit, without a second place to keep it.

    v0.2.0                          0.2.0
    12 commits after v0.2.0         0.3.0.dev12+g1a2b3c4, if CHANGELOG.md begins with 0.3.0
    no tag                          0.2.0.dev940+g1a2b3c4, if CHANGELOG.md begins with 0.2.0
    a source distribution           what it was built as
    a zip of the tree without git   what CHANGELOG.md begins with

scikit-build-core calls :func:`dynamic_metadata`; ``python tools/version_from_git.py`` prints it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parent.parent
_RELEASE = re.compile(r"^## (\d+\.\d+\.\d+)\b", re.MULTILINE)
_BUILT = re.compile(r"^Version: (\S+)$", re.MULTILINE)
_TAG = re.compile(r"v(\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)-(\d+)-g([0-9a-f]+)")


def dynamic_metadata(settings: Mapping[str, Any], project: Mapping[str, Any]) -> dict[str, str]:
    """The field ``version``, for scikit-build-core."""
    return {"version": version(TREE)}


def version(tree: Path) -> str:
    """The version of a tree.

    Raises:
        ValueError: CHANGELOG.md names no version.
    """
    built = tree / "PKG-INFO"
    if built.is_file() and (found := _BUILT.search(built.read_text(encoding="utf-8"))):
        return found[1]
    if not (tree / ".git").exists():
        return next_release(tree)
    tagged = _git(tree, "describe", "--tags", "--long", "--match", "v[0-9]*")
    if tagged is not None and (parts := _TAG.fullmatch(tagged)):
        release, distance, commit = parts.groups()
        return release if distance == "0" else f"{next_release(tree)}.dev{distance}+g{commit}"
    count = _git(tree, "rev-list", "--count", "HEAD")
    commit = _git(tree, "rev-parse", "--short=7", "HEAD")
    release = next_release(tree)
    return f"{release}.dev{count}+g{commit}" if count and commit else release


def next_release(tree: Path) -> str:
    """The version that CHANGELOG.md begins with."""
    found = _RELEASE.search((tree / "CHANGELOG.md").read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{tree / 'CHANGELOG.md'} has no heading such as '## 1.2.3'")
    return found[1]


def _git(tree: Path, *words: str) -> str | None:
    """What git prints; None where there is no git, no commit or no such tag."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=tree, capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


if __name__ == "__main__":
    print(version(TREE))
