"""An interrupted labelling ends with the same bytes, and what still fits is used again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from label_fakes import rows

from icm_fast.cli import run
from icm_fast.files import lock_folder
from run_fakes import REPOSITORY

N, CHUNK, N_VIEWS = 24, 5, 3
DRIVER = """
import sys
import pytest
from label_fakes import install
install(pytest.MonkeyPatch(), delay=float(sys.argv[1]))
from icm_fast.cli import run
sys.exit(run(sys.argv[2:]))
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv"
    pd.DataFrame(rows(N)).to_csv(path, index=False)
    return path


def command(table: Path, folder: Path, *more: str) -> list[str]:
    settings = ("cores=2", "core_size=6", f"chunk_rows={CHUNK}")
    return [
        *("label", str(table), "--text", "review", "--labels", "negative,positive"),
        *("--template", "{review} is", "--model", "fake", "-o", str(folder) + ".csv"),
        *("--folder", str(folder), "--progress", "none"),
        *(word for setting in settings for word in ("--set", setting)),
        *more,
    ]


def start(words: list[str], delay: float = 0.15) -> subprocess.Popen[str]:
    paths = [str(REPOSITORY / "tests"), str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(delay), *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], reached) -> None:
    deadline = time.monotonic() + 90
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def stored(folder: Path) -> dict[str, int]:
    """Bytes of each view."""
    return {path.name: path.stat().st_size for path in (folder / "views").glob("*.bin")}


def chunks(folder: Path) -> int:
    """Chunks that are stored in all views."""
    whole = 8 + 5 * 2 * 4 + 4
    return sum((size - 64) // whole for size in stored(folder).values())


POINTS = {
    "rows alone": lambda folder: chunks(folder) >= 2,
    "a search": lambda folder: any((folder / "cores").glob("*/evaluations.bin")),
    "rows after the last core": lambda folder: len(stored(folder)) == N_VIEWS,
}


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("point", POINTS)
def test_a_labelling_that_was_killed_ends_with_the_same_bytes(table, tmp_path, point):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert run(command(table, whole)) == 0
    process = start(command(table, folder))
    wait_for(process, lambda: (folder / "views").is_dir() and POINTS[point](folder))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert not (folder / "summary.json").exists()
    assert run(command(table, folder)) == 0
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    for path in (whole / "views").iterdir():
        assert (folder / "views" / path.name).read_bytes() == path.read_bytes()


def test_one_ctrl_c_ends_after_the_chunk_with_everything_stored(table, tmp_path, fake):
    folder = tmp_path / "run"
    process = start(command(table, folder, "--progress", "plain"))
    wait_for(process, lambda: (folder / "views").is_dir() and chunks(folder) >= 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 130, (out, err)
    assert "stopping once the rows at hand are stored" in out + err
    assert "to resume" in err
    before = chunks(folder)
    assert 1 <= before < 5 * N_VIEWS
    ((name, size),) = stored(folder).items()
    assert run(command(table, folder)) == 0
    assert stored(folder)[name] >= size
    assert len(pd.read_csv(tmp_path / "run.csv")) == N


@pytest.mark.usefixtures("fake")
def test_two_processes_do_not_write_to_one_folder(table, tmp_path, capsys):
    folder = tmp_path / "run"
    lock = lock_folder(folder)
    try:
        assert run(command(table, folder)) == 2
    finally:
        os.close(lock)
    assert "is being written by another process" in capsys.readouterr().err
    assert run(command(table, folder)) == 0


def test_a_finished_labelling_is_not_scored_again(table, tmp_path, fake):
    folder = tmp_path / "run"
    assert run(command(table, folder)) == 0
    before = (tmp_path / "run.csv").read_bytes()
    for scorer in fake.scorers:
        scorer._one = None
    n_before = len(fake.scorers)
    assert run(command(table, folder)) == 0
    assert (tmp_path / "run.csv").read_bytes() == before
    assert len(fake.scorers) == n_before


def test_other_settings_use_what_still_fits(table, tmp_path, fake):
    folder = tmp_path / "run"
    assert run(command(table, folder)) == 0
    before = stored(folder)
    assert len(before) == N_VIEWS + 1  # and the texts of some rows
    assert run(command(table, folder, "--abstain", "0.5")) == 0  # decides alone
    assert stored(folder) == before
    assert pd.read_csv(tmp_path / "run.csv")["label"].isna().sum() == N // 2
    assert run(command(table, folder, "--set", "keep=0.1")) == 0  # other contexts after cores
    assert set(before) < set(stored(folder))
    assert json.loads((folder / "settings.json").read_bytes())["config"]["keep"] == 0.1


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("change", ["rows", "labels", "template", "chunk_rows"])
def test_the_folder_of_another_labelling_is_refused(table, tmp_path, change, capsys):
    folder = tmp_path / "run"
    assert run(command(table, folder)) == 0
    more = {
        "rows": [],
        "labels": ["--labels", "negative,neutral"],
        "template": ["--template", "{review}!"],
        "chunk_rows": ["--set", "chunk_rows=6"],
    }[change]
    if change == "rows":
        pd.DataFrame(rows(N + 1)).to_csv(table, index=False)
    before = stored(folder)
    capsys.readouterr()
    assert run(command(table, folder, *more)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert str(folder) in err
    assert stored(folder) == before


@pytest.mark.usefixtures("fake")
def test_a_folder_with_other_files_is_refused(table, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert run(command(table, tmp_path / "run")) == 2
    assert "holds other files (thesis.txt), but no labelling" in capsys.readouterr().err
    assert os.listdir(tmp_path / "run") == ["thesis.txt"]


def test_a_wrong_column_is_found_before_the_model_is_loaded(table, tmp_path, fake):
    assert run(command(table, tmp_path / "run", "--text", "reviw")) == 2
    assert fake.loads == 0
