"""A disk that refuses at every single call, and a clock that jumps: nothing is lost or wrong."""

import errno
import itertools
import json
import os
import random
import time

import pytest

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.engine.progress import PlainLines, Stopwatch, TerminalProgress
from icm_fast.errors import InputError
from run_fakes import FakeScorer, run_bytes, toy_dataset

CONFIG = SearchConfig(preset="paper", max_evaluations=8, n_initial=2)
HEADER, RECORD = 56, 6 + 8 + 4 * 6 * 2 + 4


def run(folder, progress=None):
    return icm_fast.search(
        toy_dataset(6),
        model="fake",
        config=CONFIG,
        output_dir=folder,
        scorer=FakeScorer(6),
        progress=progress,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return run_bytes(folder)


def full_at(patch, call, number):
    """Let the ``call``-th write, sync, rename or cut of this process fail; return the count."""
    count = itertools.count(1)

    def counted(original):
        def wrapper(*arguments, **keywords):
            if next(count) == call:
                raise OSError(number, os.strerror(number))
            return original(*arguments, **keywords)

        return wrapper

    for name in ("write", "fsync", "replace", "ftruncate", "mkdir"):
        patch.setattr(os, name, counted(getattr(os, name)))


def records(folder):
    path = folder / "evaluations.bin"
    if not path.exists():
        return b""
    content = path.read_bytes()
    return content[: HEADER + (len(content) - HEADER) // RECORD * RECORD]


def refusal_of(folder):
    try:
        run(folder)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_at_any_call_loses_nothing(tmp_path, monkeypatch, whole, number):
    for call in range(1, 1000):
        folder = tmp_path / str(call)
        with monkeypatch.context() as patch:
            full_at(patch, call, number)
            refusal = refusal_of(folder)
        if refusal is None:
            break
        assert "\n" not in refusal
        assert os.strerror(number) in refusal
        assert whole["evaluations.bin"].startswith(records(folder))
        n_kept = max(0, len(records(folder)) - HEADER) // RECORD
        ended = (folder / "summary.json").exists()  # only its name could not be made durable
        run(folder)
        assert run_bytes(folder) == whole, f"refused at call {call}"
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["n_evaluations_resumed"] == (0 if ended else n_kept)
    assert call > 30


def jumping(seed):
    """A clock that goes on, back and far ahead."""
    rng = random.Random(seed)
    now = [1e9]

    def read():
        now[0] += rng.choice((0.001, 0.5, -3600.0, -1e9, 86_400.0, 4e9))
        return now[0]

    return read


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("make", [PlainLines, TerminalProgress, None])
def test_a_clock_that_jumps_changes_no_result(tmp_path, monkeypatch, whole, seed, make):
    with monkeypatch.context() as patch:
        for name in ("time", "monotonic", "perf_counter"):
            patch.setattr(time, name, jumping(seed))
        result = run(tmp_path / "run", make(timed=True) if make else None)
    assert run_bytes(tmp_path / "run") == whole
    assert result.seconds >= 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["seconds"] >= 0
    again = run(tmp_path / "run")  # a finished run is read back
    assert again.seconds == pytest.approx(result.seconds, abs=0.001)


def test_a_stopwatch_never_falls(monkeypatch):
    monkeypatch.setattr(time, "monotonic", iter([10.0, 12.0, 5.0, 6.5]).__next__)
    watch = Stopwatch(before=3.0)
    assert [watch.seconds() for _ in range(3)] == [5.0, 5.0, 6.5]
