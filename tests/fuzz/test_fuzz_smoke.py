"""Every fuzz target reads its corpus and a few changes of it; `make fuzz` does so for long."""

from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest

from fuzz.coverage import Coverage
from fuzz.mutate import mutate
from fuzz.native import NATIVE
from fuzz.target import CORPUS, CorruptionError, Target, judge
from fuzz.targets import TARGETS, make_target
from fuzz.watch import REPOSITORY, watch
from icm_fast.documents import parse_json
from icm_fast.errors import InputError

IN_THIS_PROCESS = ("settings", "documents", "tables", "run-folders", "training-folders")
"""The others import much or replace modules; tests of their own read damaged models."""


@pytest.mark.parametrize("name", IN_THIS_PROCESS)
def test_a_target_reads_its_corpus_and_changes_of_it(name, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    target, random = make_target(name), Random(1)
    target.prepare(work)
    seeds = target.seeds()[:30]
    changed = [mutate(random, random.choice(seeds), seeds, target.words) for _ in range(60)]
    for data in (*seeds, *changed):
        assert judge(target, data) == ("", ""), data


class Planted(Target):
    """A target with every fault that the rule knows."""

    name = "planted"

    def read(self, data: bytes) -> None:
        if data == b"line":
            raise InputError("one line")
        if data == b"lines":
            raise InputError("two\nlines")
        if data == b"long":
            raise InputError("x" * 10_000)
        if data == b"other":
            raise CorruptionError("other")
        assert data != b"bug"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        *((b"fine", ""), (b"line", ""), (b"lines", "traceback"), (b"long", "traceback")),
        *((b"other", "corruption"), (b"bug", "traceback")),
    ],
)
def test_the_rule(data, kind):
    assert judge(Planted(), data)[0] == kind


def test_new_lines_are_seen_once():
    coverage = Coverage()
    for is_new in (True, False):
        with coverage:
            parse_json("[1]", "x")
        assert bool(coverage.n_new) == is_new
    with coverage, pytest.raises(InputError):
        parse_json("[" * 200 + "]" * 200, "x")
    assert coverage.n_new > 0


def test_a_worker_is_watched(tmp_path):
    outcome = watch("documents", 3, tmp_path / "home")
    assert outcome.tried > 0
    assert outcome.is_clean, outcome.line()


def test_a_worker_that_dies_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("fuzz.watch.make_target", lambda name: Planted())
    outcome = watch("no such target", 0.1, tmp_path / "home")
    assert outcome.crashes == 1
    assert not outcome.is_clean


def test_every_native_target_has_a_corpus_and_a_program():
    programs = {path.stem for path in (REPOSITORY / "csrc" / "fuzz").glob("*.cpp")}
    assert programs == set(NATIVE)
    for name in NATIVE:
        assert list((CORPUS / f"native-{name}").iterdir())


def test_the_command_names_its_targets():
    told = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--help"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in (*TARGETS, "native-plan"):
        assert name in told
