"""Runs fuzz targets and prints what each did; fails where anything was wrong."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from . import native
from .target import judge
from .targets import TARGETS, make_target
from .watch import REPOSITORY, Outcome, watch
from .worker import surroundings

RESULTS = REPOSITORY / "build" / "fuzz-results"


def main() -> int:
    """Run the chosen targets one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    names = [*TARGETS, *native.names()]
    parser.add_argument("--seconds", type=float, default=600, help="for each target")
    parser.add_argument("--target", choices=names, action="append", help="may be repeated")
    parser.add_argument("--python-only", action="store_true", help="leave the native targets out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--input", type=Path, help="read this one input again")
    arguments = parser.parse_args()
    chosen = arguments.target or names
    if arguments.input:
        return _again(chosen[0], arguments.input.read_bytes())
    if arguments.python_only:
        chosen = [name for name in chosen if name in TARGETS]
    outcomes = [_run(name, arguments.seconds, arguments.seed) for name in chosen]
    return 0 if all(outcome.is_clean for outcome in outcomes) else 1


def _run(name: str, seconds: float, seed: int) -> Outcome:
    home = RESULTS / name
    outcome = (
        watch(name, seconds, home, seed)
        if name in TARGETS
        else native.run_native(name, seconds, home)
    )
    print(outcome.line(), flush=True)
    for path in outcome.kept:
        print(f"  {path}", flush=True)
    return outcome


def _again(name: str, data: bytes) -> int:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        os.environ |= surroundings(Path(scratch))
        os.chdir(scratch)
        target = make_target(name)
        target.prepare(Path(scratch))
        kind, told = judge(target, data)
    print(f"{kind or 'fine'} {told}")
    return 1 if kind else 0


if __name__ == "__main__":
    sys.exit(main())
