"""A small version of ``make kills``: real processes, killed at random instants."""

import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parent / "kills.py"


@pytest.mark.parametrize("subject", ["search", "label"])
def test_what_was_killed_resumes_to_the_same_bytes(subject):
    options = ["--subject", subject, "--n", "3", "--seed", "1", "--disks", "1"]
    done = subprocess.run(
        [sys.executable, str(KILLS), *options],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 kills resumed to identical bytes" in done.stdout
    assert "is being written by another process" in done.stdout
    assert "No space left on device" in done.stdout or "no tmpfs" in done.stdout
