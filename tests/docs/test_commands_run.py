"""The blocks of the documents run as they are written, in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from document_blocks import DOCUMENTS, REPOSITORY, blocks_of, name_of

DRIVER = """
import json, subprocess, sys
names = {"__name__": "__main__"}
for block in json.load(sys.stdin):
    print("==", block["name"], flush=True)
    if block["language"] == "sh":
        subprocess.run(["bash", "-euo", "pipefail", "-c", block["text"]], check=True)
    else:
        exec(compile(block["text"], block["name"], "exec"), names)
"""
"""Runs the blocks of a page in their order; its Python blocks share their names."""

BLOCKS = {document: list(blocks_of(document)) for document in DOCUMENTS}
QUICK, SLOW = (
    [page for page, blocks in BLOCKS.items() if any(b.run == kind for b in blocks)]
    for kind in ("quick", "slow")
)


def run_blocks(page: Path, kinds: tuple[str, ...], folder: Path, timeout: float) -> None:
    """Run the blocks of these kinds in ``folder``."""
    blocks = [
        {"name": block.name, "language": block.language, "text": block.text}
        for block in BLOCKS[page]
        if block.run in kinds
    ]
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    commands = Path(sys.executable).parent
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(blocks),
        cwd=folder,
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"},
        text=True,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", QUICK, ids=name_of)
def test_quick_blocks(page: Path, tmp_path: Path) -> None:
    run_blocks(page, ("quick",), tmp_path, 120)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize("page", SLOW, ids=name_of)
def test_slow_blocks(page: Path, tmp_path: Path) -> None:
    # The tutorial promises ten minutes on two cores.
    run_blocks(page, ("quick", "slow"), tmp_path, 600 if page.name == "tutorial.md" else 1800)
