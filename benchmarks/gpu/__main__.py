"""All measurements on an H100 or H200, in two calls of less than ten and five minutes.

    python -m benchmarks.gpu first --results gpu.jsonl --wheel dist/cuda/icm_fast-*.whl
    python -m benchmarks.gpu second --results gpu.jsonl

From the root of the repository. Every number is one line of the file as soon as it is known. Each
step is a process with a time limit of its own; what a failed or stopped step had measured stays.
The command fails if any step does, and a step fails where something slower than the fastest
implementation would be timed, or where answers are wrong. `--tiny` runs the same code on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LIMITS = {"first": 590.0, "second": 290.0}
"""Seconds of a call; what is left of them bounds each step, too."""


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        name: Of the line in the results.
        seconds: Its time limit.
        command: Words of the command; those after the Python of this process.
        tool: Program that runs it, such as compute-sanitizer with its options.
        environment: Variables on top of this process's.
        required: Whether later steps are pointless without it.
    """

    name: str
    seconds: float
    command: tuple[str, ...]
    tool: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    required: bool = False


def steps_of(call: str, results: Path, wheel: Path | None, site: Path, *, tiny: bool) -> list[Step]:
    """The steps of a call, in order."""
    own = ("--results", str(results), *(["--tiny"] if tiny else []))

    def measured(name: str, seconds: float) -> Step:
        return Step(name, seconds, ("-m", "benchmarks.gpu.visit", name, *own))

    if call == "first":
        tried = [] if tiny else [measured("trial-wgmma", 75), measured("trial-mma", 60)]
        return [
            *([_install(wheel, site)] if wheel else []),
            measured("environment", 40),
            *tried,
            measured("exact", 75),
            measured("attention", 130),
            measured("whole", 150),
        ]
    layers = ("-m", "benchmarks.gpu.measure", "--sizes", "8" if tiny else "64,256")
    layers += ("--device", "cpu") if tiny else ()
    layers += ("--output", str(results.with_suffix(".layers.json")))
    if tiny:  # the rest needs a device
        return [Step("layers", 45, layers)]
    return [
        _sanitized("memcheck", 65, results),
        _tests("tests of CUDA kernels", 55, "test_cuda_tree_attention", "test_kernel_trial"),
        Step("layers", 40, layers),
        _tests("tests of Triton kernels", 75, "test_triton_gpu"),
        _sanitized("racecheck", 55, results),
    ]


def _install(wheel: Path | None, site: Path) -> Step:
    words = ("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade")
    command = (*words, "--target", str(site), str(wheel))
    return Step("install", 60, command, required=True)


def _sanitized(tool: str, seconds: float, results: Path) -> Step:
    return Step(
        tool,
        seconds,
        ("-m", "benchmarks.gpu.visit", "small", "--results", str(results)),
        ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9"),
        {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )


def _tests(name: str, seconds: float, *files: str) -> Step:
    paths = [f"tests/kernels/{file}.py" for file in files]
    options = ("-q", "-n", "8", "-m", "gpu", "-o", "filterwarnings=default")
    return Step(name, seconds, ("-m", "pytest", *options, "-p", "no:cacheprovider", *paths))


def run(step: Step, seconds: float, environment: Mapping[str, str]) -> int:
    """Exit code of a step; 124 if it took longer than allowed, 127 if its tool is not there.

    The whole group of its processes ends with it.
    """
    if step.tool and shutil.which(step.tool[0]) is None:
        print(f"{step.tool[0]} is not on the PATH", flush=True)
        return 127
    process = subprocess.Popen(
        [*step.tool, sys.executable, *step.command],
        env={**environment, **step.environment},
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return 124
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_all(
    steps: Sequence[Step], results: Path, limit: float, environment: Mapping[str, str]
) -> list[str]:
    """Run steps in order, each within its limit and what is left of the call's.

    Returns:
        Names of the steps that failed or could not start.
    """
    failed: list[str] = []
    started = time.monotonic()
    for number, step in enumerate(steps):
        left = limit - (time.monotonic() - started)
        if left < 1:
            failed += [later.name for later in steps[number:]]
            _append(results, {"skipped": failed[-1], "reason": "no time left in this call"})
            break
        print(f"== {step.name}", flush=True)
        began, allowed = time.monotonic(), min(step.seconds, left)
        code = run(step, allowed, environment)
        took = round(time.monotonic() - began, 1)
        _append(results, {"step": step.name, "exit_code": code, "seconds": took, "limit": allowed})
        if code:
            failed.append(step.name)
            if step.required:
                break
    return failed


def _append(results: Path, line: Mapping[str, object]) -> None:
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def environment_of(site: Path) -> dict[str, str]:
    """Variables of every step: the installed wheel first, no network, no plan for every shape."""
    given = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), *([given] if given else [])]),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        # cuDNN builds a plan for every new shape, which is no fair peer where shapes vary.
        "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
    }


def main() -> None:
    """Run one call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("call", choices=LIMITS)
    parser.add_argument("--results", type=Path, required=True, help="lines are added to it")
    parser.add_argument("--wheel", type=Path, help="of `make cuda-wheel`; installed aside first")
    parser.add_argument("--tiny", action="store_true", help="dry run on a CPU, at tiny sizes")
    asked = parser.parse_args()
    results = asked.results.resolve()
    results.parent.mkdir(parents=True, exist_ok=True)
    site = Path(tempfile.gettempdir()) / f"icm-fast-gpu-{os.getuid()}"
    steps = steps_of(asked.call, results, asked.wheel, site, tiny=asked.tiny)
    failed = run_all(steps, results, LIMITS[asked.call], environment_of(site))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
