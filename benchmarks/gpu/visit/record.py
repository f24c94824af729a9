"""Numbers of a step, written one line at a time, so that a later failure takes none away."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.gpu.timing import milliseconds

PEAK = 989e12
"""Dense bfloat16 operations per second of an H100 or H200, by the data sheet."""


class FallbackError(Exception):
    """Something slower than asked for would have been timed."""


class Record:
    """Appends lines of JSON to a file that all steps share.

    Attributes:
        device: Where to measure.
        tiny: Sizes of a dry run on a CPU: everything is executed, no time means anything.
        failures: What failed in this step, in words.
    """

    def __init__(self, path: Path, step: str, device: torch.device, *, tiny: bool) -> None:
        self._path, self._step = path, step
        self.device, self.tiny = device, tiny
        self.failures: list[str] = []

    def line(self, **values: object) -> None:
        """Write one line, at once and to the disk."""
        content = {"step": self._step, **({"tiny": True} if self.tiny else {}), **values}
        text = json.dumps(content, default=str)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(text, flush=True)

    def attempt(self, name: str, measure: Callable[[], None]) -> None:
        """Run one measurement; if it fails, write why and let the next one run."""
        try:
            measure()
        except Exception as error:  # whatever a peer raises must not end the step
            reason = f"{type(error).__name__}: {error}"[:400]
            self.failures.append(f"{name}: {reason}")
            self.line(name=name, failed=reason)

    def check_error(self, name: str, error: float, limit: float) -> None:
        """Note a result that is wrong; NaN is."""
        if not error <= limit:
            self.failures.append(f"{name}: differs by {error:.2g}, limit {limit:.2g}")

    def milliseconds(self, call: Callable[[], object], repeats: int = 10) -> float:
        """Median time of a call on the device, after three others."""
        if self.device.type != "cuda":
            started = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - started)
        return milliseconds(call, repeats)

    def wait(self) -> None:
        """Wait until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
