"""The fuzzers of csrc/fuzz: clang's libFuzzer under address and undefined-behaviour checks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from .target import CORPUS
from .watch import REPOSITORY, Outcome

BUILT = REPOSITORY / "build" / "fuzz" / "csrc" / "fuzz"
NATIVE = ("decoder", "engine", "kernels", "plan", "prefix_cache")
_SECONDS_PER_INPUT = 60
"""On the clock, which a busy machine shares."""
_KINDS = {"timeout": "hangs", "crash": "crashes", "oom": "crashes", "leak": "crashes"}


def names() -> list[str]:
    """Names of the native targets, as in ``--target``."""
    return [f"native-{name}" for name in NATIVE]


def run_native(target: str, seconds: float, home: Path) -> Outcome:
    """Run a native target; it stops at its first fault, whose input stays in ``home``."""
    name = target.removeprefix("native-")
    outcome = Outcome(target)
    shutil.rmtree(home, ignore_errors=True)
    (home / "corpus").mkdir(parents=True)
    command = [
        str(BUILT / f"fuzz_{name}"),
        *(f"-max_total_time={int(seconds)}", f"-timeout={_SECONDS_PER_INPUT}"),
        *("-rss_limit_mb=2500", "-max_len=1024", "-print_final_stats=1", "-report_slow_units=60"),
        f"-artifact_prefix={home}/",
        *(str(home / "corpus"), str(CORPUS / target)),
    ]
    surroundings = os.environ | {"ASAN_OPTIONS": "allocator_may_return_null=1"}
    with open(home / "log.txt", "wb") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env=surroundings, check=False)
    text = (home / "log.txt").read_text(errors="replace")
    found = re.findall(r"stat::number_of_executed_units: (\d+)", text)
    outcome.tried = int(found[-1]) if found else 0
    for path in sorted(home.glob("*-*")):
        counter = _KINDS.get(path.name.partition("-")[0])
        if counter is None:  # a slow one, which is no fault
            continue
        counter = "corruptions" if "WRONG RESULT" in text else counter
        setattr(outcome, counter, getattr(outcome, counter) + 1)
        outcome.kept.append(path)
    if done.returncode != 0 and not outcome.kept:
        outcome.crashes += 1
    return outcome
