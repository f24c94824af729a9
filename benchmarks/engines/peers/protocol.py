"""A peer's input, timing and output; standard library only."""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, TextIO

from .prefix import costs

PROBED_PROMPTS = 4
WARM_UP_TOKENS = 128

Prompts = Sequence[Sequence[int]]
Logits = list[list[float]]  # [n_prompts, n_labels]


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement.

    Attributes:
        prompts: Token ids, in the order in which they are sent; each ends right before its label.
        label_ids: Token id of each label.
        model: Folder (or hub id) of the model.
        dtype: ``bfloat16`` or ``float32``.
        threads: Threads to compute with.
        cpus: CPUs that the peer is pinned to.
        repeats: Timed repeats, each with a cold cache.
        max_seconds: Time limit of one repeat, kept by measuring only the first prompts; 0: all.
        options: Settings of the peer.
        source: How to load the data set again; only ``ours`` reads it.
    """

    prompts: list[list[int]]
    label_ids: list[int]
    model: str
    dtype: str
    threads: int
    cpus: list[int]
    repeats: int = 1
    max_seconds: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the job as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a job that :meth:`write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class Session(Protocol):
    """A loaded peer.

    Attributes:
        reuses_prefix: Whether it keeps keys and values of earlier prompts.
        divisible: Whether a part of the prompts takes a proportional part of the time.
        tokens_forwarded: Tokens forwarded since the last reset, None if unknown.
        details: Settings that it selected, for the results.
        packages: Distributions whose versions are recorded.
    """

    reuses_prefix: bool
    divisible: bool
    tokens_forwarded: int | None
    details: dict[str, Any]
    packages: tuple[str, ...]

    def reset(self) -> None:
        """Forget all keys and values."""

    def label_logits(self, prompts: Prompts) -> Logits:
        """Logits of the labels after each prompt, ``[n_prompts, n_labels]``."""


def log_softmax(logits: Sequence[float]) -> list[float]:
    """Natural log-probabilities over the labels."""
    top = max(logits)
    total = top + math.log(sum(math.exp(x - top) for x in logits))
    return [x - total for x in logits]


def measure(session: Session, job: Job) -> dict[str, Any]:
    """Time the repeats of a job.

    Returns:
        ``seconds`` of each repeat for the first ``n_measured`` of ``n_prompts`` prompts, which are
        ``measured_share`` of the tokens to forward; their ``scores``, ``[n_measured, n_labels]``
        log-probabilities of the last repeat, and ``repeat_difference``, their largest change
        between repeats; ``processors_used``, CPU seconds per second; tokens, versions,
        memory in bytes.
    """
    session.label_logits([prompt[:WARM_UP_TOKENS] for prompt in job.prompts[:1]])
    tokens = costs(job.prompts, reuses_prefix=session.reuses_prefix)
    n_measured = _affordable(session, job, tokens)
    seconds, runs = [], []
    busy = time.process_time()
    for _ in range(job.repeats):
        elapsed, logits = _timed(session, job.prompts[:n_measured])
        seconds.append(elapsed)
        runs.append([log_softmax(row) for row in logits])
    busy = time.process_time() - busy
    return {
        "seconds": seconds,
        "scores": runs[-1],
        "repeat_difference": _largest_difference(runs),
        "processors_used": busy / max(sum(seconds), 1e-9),
        "n_measured": n_measured,
        "n_prompts": len(job.prompts),
        "measured_share": sum(tokens[:n_measured]) / sum(tokens),
        "tokens_forwarded": session.tokens_forwarded,
        "versions": _versions(session.packages),
        "details": session.details,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _timed(session: Session, prompts: Prompts) -> tuple[float, Logits]:
    session.reset()
    started = time.perf_counter()
    logits = session.label_logits(prompts)
    return time.perf_counter() - started, logits


def _affordable(session: Session, job: Job, tokens: Sequence[int]) -> int:
    """Number of first prompts that fit in the time of a repeat, estimated from a few."""
    n = len(job.prompts)
    if not job.max_seconds or not session.divisible or n <= PROBED_PROMPTS:
        return n
    elapsed, _ = _timed(session, job.prompts[:PROBED_PROMPTS])
    allowed = job.max_seconds / elapsed * sum(tokens[:PROBED_PROMPTS])
    fitting, total = 0, 0
    while fitting < n and total + tokens[fitting] <= allowed:
        total += tokens[fitting]
        fitting += 1
    return max(fitting, PROBED_PROMPTS)


def _largest_difference(runs: Sequence[Logits]) -> float:
    return max(
        abs(x - y)
        for run in runs
        for row, first in zip(run, runs[0], strict=True)
        for x, y in zip(row, first, strict=True)
    )


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def main(open_session: Callable[[Job], Session]) -> None:
    """Measure the job named on the command line."""
    answer(lambda job: measure(open_session(job), job))


def answer(compute: Callable[[Job], dict[str, Any]]) -> None:
    """Run the job named on the command line and print the result as one line of JSON."""
    job = Job.read(Path(sys.argv[1]))
    # Threads inherit the pinning, so it comes before any library starts threads.
    os.sched_setaffinity(0, job.cpus)
    stdout = _private_stdout()
    json.dump(compute(job), stdout)
    stdout.write("\n")
    stdout.close()


def _private_stdout() -> TextIO:
    """Standard output for the result alone; output of libraries goes to standard error."""
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stdout
