"""The process that tries inputs. Another one watches it, since an input may end or stop it.

It writes each input to a file before it is read, and beats by changing a counter beside it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from .coverage import Coverage
from .mutate import mutate
from .target import Target, judge, name_of
from .targets import make_target

INPUT, BEAT, REPORT = "input", "beat", "report.json"
MOST_BYTES = 12 << 30
"""Of addresses: small inputs must not cost more memory than a machine has."""


def main() -> None:
    """``python -m tests.fuzz.worker TARGET SEED SECONDS FOLDER``."""
    name, seed, seconds, home = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, 1 << 28))
    target = make_target(name)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        os.environ |= surroundings(Path(scratch))
        work = Path(scratch) / "work"
        work.mkdir()
        os.chdir(work)
        target.prepare(work)
        _Loop(target, Path(home), Random(seed)).run(time.monotonic() + seconds)


def surroundings(scratch: Path) -> dict[str, str]:
    """Variables that keep everything that a target writes in its own folder, and off the net."""
    return {
        "HOME": str(scratch),
        "ICM_FAST_CACHE": str(scratch / "cache"),
        "XDG_CACHE_HOME": str(scratch / "cache"),
        "XDG_CONFIG_HOME": str(scratch / "config"),
        "HF_HOME": str(scratch / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }


class _Loop:
    def __init__(self, target: Target, home: Path, random: Random) -> None:
        self._target, self._home, self._random = target, home, random
        self._coverage = Coverage()
        self._corpus: list[bytes] = []
        self._n = 0
        self._input = os.open(home / INPUT, os.O_RDWR | os.O_CREAT)
        self._beat = os.open(home / BEAT, os.O_RDWR | os.O_CREAT)
        self._counts = {"tried": 0, "traceback": 0, "corruption": 0}
        self._known: set[str] = set()

    def run(self, end: float) -> None:
        seeds = self._target.seeds()
        for data in seeds:
            judge(self._target, data)  # imports take long where each line is watched
        for data in seeds:
            self._try(data)
        self._corpus = list(dict.fromkeys((*self._corpus, *seeds)))
        while time.monotonic() < end:
            base = self._random.choice(self._corpus)
            self._try(mutate(self._random, base, self._corpus, self._target.words))
        os.pwrite(self._beat, b"done".ljust(20), 0)
        self._report()

    def _try(self, data: bytes) -> None:
        os.ftruncate(self._input, len(data))
        os.pwrite(self._input, data, 0)
        self._n += 1
        os.pwrite(self._beat, str(self._n).encode().ljust(20), 0)
        with self._coverage:
            kind, told = judge(self._target, data)
        self._counts["tried"] += 1
        if kind:
            self._keep(kind, told, data)
        elif self._coverage.n_new:
            self._corpus.append(data)
        if self._n % 50 == 0:
            self._report()

    def _keep(self, kind: str, told: str, data: bytes) -> None:
        """Keep the first input of each fault: the same line of code is the same fault."""
        self._counts[kind] += 1
        fault = "\n".join(line for line in told.splitlines() if line.startswith("  File"))
        fault = fault or told.split(":")[0]
        if fault in self._known:
            return
        self._known.add(fault)
        path = self._home / f"{kind}-{name_of(data)}"
        path.write_bytes(data)
        path.with_name(f"{path.name}.txt").write_text(told, encoding="utf-8", errors="replace")

    def _report(self) -> None:
        path = self._home / REPORT
        path.with_suffix(".tmp").write_text(json.dumps(self._counts))
        os.replace(path.with_suffix(".tmp"), path)


if __name__ == "__main__":
    main()
