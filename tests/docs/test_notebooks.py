"""The notebooks of examples/ run from the first cell to the last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from document_blocks import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "examples").glob("*.ipynb"))
CHECK = """
assert list(labelled.columns) == ["review", "label", "confidence", "decided_by", "votes"]
assert labelled.index.equals(frame.index) and list(frame.columns) == ["review"]
assert set(labelled["label"]) == {"negative", "positive"}
assert set(review["row"]) == set(labelled["confidence"].nsmallest(8).index)
assert (certain["decided_by"] == "abstained").sum() == certain["label"].isna().sum() == 6
assert certain["label"].dropna().equals(labelled["label"][certain["label"].notna()])
"""


def cells(path: Path, kind: str) -> list[str]:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert cells(path, "markdown")[0].startswith("# ")
    for cell in content["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.model
@pytest.mark.usefixtures("smollm2")
def test_the_notebook_labels_a_table(tmp_path: Path) -> None:
    (path,) = NOTEBOOKS
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*cells(path, "code"), CHECK])],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
