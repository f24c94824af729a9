"""The notebooks of examples/ run from the first cell to the last."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from document_blocks import REPOSITORY

from tiny_models import tiny_loaded

NOTEBOOKS = sorted((REPOSITORY / "examples").glob("*.ipynb"))
CHECK_TABLE = """
assert list(labelled.columns) == ["review", "label", "confidence", "decided_by", "votes"]
assert labelled.index.equals(frame.index) and list(frame.columns) == ["review"]
assert set(labelled["label"]) == {"negative", "positive"}
assert set(review["row"]) == set(labelled["confidence"].nsmallest(8).index)
assert (certain["decided_by"] == "abstained").sum() == certain["label"].isna().sum() == 6
assert certain["label"].dropna().equals(labelled["label"][certain["label"].notna()])
"""
CHECK_TUTORIAL = """
assert list(labelled.columns) == ["message", "label", "confidence", "decided_by", "votes"]
assert {step.stream for step in steps} >= {"rows", "core-1", "result"}
assert Path("report.html").read_text().startswith("<!doctype html>")
assert (corrected.loc[doubtful, "label"] == pd.Series(answers)[doubtful]).all()
assert (corrected.loc[doubtful, "decided_by"] == "known").all()
assert len(tuned.losses) == 4 and tuned.n_examples == 12
assert answer["label"].isin(["unhappy", "happy"]).all() and len(answer) == 2
"""


def cells(path: Path, kind: str) -> list[str]:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


def run_notebook(name: str, check: str, folder: Path, model: str = "smollm2") -> None:
    """Run the cells in ``folder``, with ``model`` in place of the one that they name."""
    code = "\n".join([*cells(REPOSITORY / "examples" / name, "code"), check])
    code, n = re.subn(r'^MODEL = ".*"$', f"MODEL = {model!r}", code, flags=re.MULTILINE)
    assert n == 1
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


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
    run_notebook("label_a_table.ipynb", CHECK_TABLE, tmp_path)


def test_the_tutorial_runs_with_a_tiny_model(tmp_path: Path) -> None:
    loaded = tiny_loaded("llama")
    loaded.model.save_pretrained(tmp_path / "tiny")
    loaded.tokenizer.save_pretrained(tmp_path / "tiny")
    run_notebook("tutorial.ipynb", CHECK_TUTORIAL, tmp_path, str(tmp_path / "tiny"))


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.usefixtures("smollm2")
def test_the_tutorial_runs_with_the_embedded_model(tmp_path: Path) -> None:
    run_notebook("tutorial.ipynb", CHECK_TUTORIAL, tmp_path)
