"""The assistant with a real model, killed in each of its stages, ends with the same files."""

import itertools
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from policy_cases import stable_files

pytestmark = [pytest.mark.model, pytest.mark.slow]

SIZES = ("n=8", "n_start=32", "n_pool=8", "n_judge=16", "n_test=16", "n_prompts=16", "samples=1")
POLICY = ("steps=3", "batch_size=2", "n_held_out=4", "save_steps=1", "eval_steps=3")
STAGE = re.compile(r" *\d+:\d\d  (\S.*)$")
FINISHED = ("adapter_model.safetensors", "labels.jsonl", "pool.jsonl")


def start(folder: Path) -> subprocess.Popen:
    command = ["assistant", "--seed", "5", "--output", str(folder)]
    for name, values in (("--set", SIZES), ("--rl", POLICY)):
        for value in values:
            command += [name, value]
    script = "from icm_fast.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def stages_of(process: subprocess.Popen):
    """Names of stages as they begin, with the time."""
    for line in process.stderr:
        if found := STAGE.match(line):
            yield found[1], time.monotonic()


def finish(folder: Path) -> tuple[dict[str, bytes], list[tuple[str, float]]]:
    with start(folder) as process:
        stages = list(stages_of(process))
    assert process.returncode == 0
    return stable_files(folder), [*stages, ("end", time.monotonic())]


def changed(folder: Path) -> dict[str, int]:
    """When each result of a stage was written, in nanoseconds; checkpoints are left out."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for name in FINISHED
        for path in folder.rglob(name)
        # What lies in the folder itself is drawn anew each time.
        if path.parent != folder and "checkpoint" not in str(path)
    }


@pytest.mark.usefixtures("smollm2")
def test_killed_in_each_stage_it_ends_the_same_and_repeats_nothing(tmp_path):
    expected, stages = finish(tmp_path / "whole")
    assert len(stages) == 11
    killed = tmp_path / "killed"
    written: dict[str, int] = {}
    for (stage, began), (_, ended) in itertools.pairwise(stages):
        with start(killed) as process:
            assert any(name == stage for name, _ in stages_of(process))
            time.sleep((ended - began) / 2)
            assert process.poll() is None, f"{stage} ended before the kill"
            process.send_signal(signal.SIGKILL)
        now = changed(killed)
        assert {name: now[name] for name in written} == written  # nothing finished is made again
        written = now
    content, _ = finish(killed)
    assert content == expected
    assert {name: at for name, at in changed(killed).items() if name in written} == written
    report, other = (
        json.loads((tmp_path / f / "report.json").read_text()) for f in ("whole", "killed")
    )
    assert report == other
