"""Starts workers, and kills those that hang: what an input does to its process is counted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from .target import name_of
from .targets import make_target
from .worker import BEAT, INPUT, REPORT

REPOSITORY = Path(__file__).resolve().parents[2]
_START_SECONDS = 300.0
"""Until the first input: imports, and what a target makes beforehand."""


@dataclass
class Outcome:
    """What a target did.

    Attributes:
        target: Its name.
        tried: Inputs.
        crashes: Inputs that ended the process, or in a traceback.
        hangs: Inputs over their time.
        corruptions: Damaged inputs that gave another result without an error.
        kept: The inputs of these.
    """

    target: str
    tried: int = 0
    crashes: int = 0
    hangs: int = 0
    corruptions: int = 0
    kept: list[Path] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether inputs were tried and nothing was wrong."""
        return self.tried > 0 and not (self.crashes or self.hangs or self.corruptions)

    def line(self) -> str:
        """One row of the report."""
        return (
            f"{self.target:18} {self.tried:>9,} inputs, {self.crashes} crashes or tracebacks, "
            f"{self.hangs} hangs, {self.corruptions} accepted corruptions"
        )


def watch(name: str, seconds: float, home: Path, seed: int = 0) -> Outcome:
    """Run a Python target for some seconds; inputs that went wrong stay in ``home``."""
    outcome = Outcome(name)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and len(outcome.kept) < 20:
        _one_worker(name, left, home, seed, outcome)
        seed += 1
    outcome.kept += sorted(path for path in home.glob("[tc]*-*") if path.suffix != ".txt")
    return outcome


def _one_worker(name: str, seconds: float, home: Path, seed: int, outcome: Outcome) -> None:
    for stale in (INPUT, BEAT, REPORT):
        (home / stale).unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.worker", name, str(seed), str(seconds), str(home)]
    with open(home / "worker.log", "ab") as log:
        worker = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        hung = _wait(worker, home, make_target(name).seconds)
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    _add_report(home, outcome)
    if hung:
        outcome.hangs += 1
        _keep(home, "hang", outcome)
    elif worker.returncode != 0:
        outcome.crashes += 1
        _keep(home, "process", outcome)


def _wait(worker: subprocess.Popen[bytes], home: Path, limit: float) -> bool:
    """Whether the worker had to be given up.

    An input has its time on the processor, and six times that on the clock, in which it may wait:
    a busy machine is not a hang.
    """
    beat, since, spent = b"", time.monotonic(), 0.0
    while worker.poll() is None:
        time.sleep(0.1)
        now = (home / BEAT).read_bytes() if (home / BEAT).exists() else b""
        if now != beat:
            beat, since, spent = now, time.monotonic(), _processor_seconds(worker.pid)
        if not beat or beat.startswith(b"done"):
            is_over = time.monotonic() - since > _START_SECONDS
        else:
            is_over = _processor_seconds(worker.pid) - spent > limit
            is_over = is_over or time.monotonic() - since > 6 * limit
        if is_over:
            return True
    return False


def _processor_seconds(pid: int) -> float:
    """What a process has used so far; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _add_report(home: Path, outcome: Outcome) -> None:
    report = home / REPORT
    if report.exists():
        counts = json.loads(report.read_text())
        outcome.tried += counts["tried"]
        outcome.crashes += counts["traceback"]
        outcome.corruptions += counts["corruption"]


def _keep(home: Path, kind: str, outcome: Outcome) -> None:
    if not (home / INPUT).exists():
        return
    data = (home / INPUT).read_bytes()
    path = home / f"{kind}-{name_of(data)}"
    path.write_bytes(data)
    outcome.kept.append(path)
