"""The demonstration with its real model, killed at any moment, ends with the same bytes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.model, pytest.mark.slow]

SAME = ("labels.jsonl", "events.jsonl", "config.yaml")


def start(folder: Path) -> subprocess.Popen:
    command = [*("demo", "--n", "24", "--n-test", "10", "--seed", "5"), "--output", str(folder)]
    script = "from icm_fast.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(folder: Path) -> tuple[dict[str, bytes], str]:
    process = start(folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()
    return {name: (folder / name).read_bytes() for name in SAME}, out.decode()


@pytest.mark.usefixtures("smollm2")
def test_killed_demo_ends_like_one_that_was_not(tmp_path):
    began = time.monotonic()
    expected, table = finish(tmp_path / "whole")
    seconds = time.monotonic() - began
    assert "golden many-shot" in table
    killed = tmp_path / "killed"
    n_kills = 0
    for share in (0.1, 0.45, 0.6, 0.7, 0.8, 0.9, 0.97):
        process = start(killed)
        time.sleep(share * seconds)
        n_kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert n_kills >= 3
    content, again = finish(killed)
    assert content == expected
    # The cost line tells the seconds of the last process, all else is the same.
    assert again.split("Search:")[0] == table.split("Search:")[0]
