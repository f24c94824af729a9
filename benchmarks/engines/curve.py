"""How the cost of one evaluation grows with the number of examples."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.engines.cases import Case
from benchmarks.engines.document import SCHEMA, case_document, flops_document
from benchmarks.engines.flops import Flops, plan_flops
from benchmarks.engines.launch import Launcher
from benchmarks.engines.references import whole_prompts
from benchmarks.engines.run import Settings, measure_peaks
from benchmarks.engines.variants import OURS
from benchmarks.engines.verify import Verdict
from benchmarks.engines.workload import Workload, make_workload
from icm_fast.engine.progress import Quiet
from icm_fast.errors import InputError
from icm_fast.runs.provenance import machine_facts
from icm_fast.types import Reporter

SIZES = (8, 16, 32, 64, 128, 256)
FITTED = ("seconds", "tokens", "flops", "kv_pool_bytes")


@dataclass(frozen=True, slots=True)
class Point:
    """One size of the curve.

    Attributes:
        workload: What was measured.
        flops: Operations of its plan.
        result: What the scorer returned (see ``peers.protocol.measure``).
        verdict: Its answers against whole prompts in float32.
    """

    workload: Workload
    flops: Flops
    result: dict[str, Any]
    verdict: Verdict

    @property
    def quantities(self) -> dict[str, float]:
        """What exponents are fitted to."""
        return {
            "seconds": statistics.median(self.result["seconds"]),
            "tokens": self.workload.plan.n_tokens,
            "flops": self.flops.total,
            "kv_pool_bytes": self.result["details"]["kv_pool_bytes"],
        }


def run_curve(
    case: Case,
    sizes: Sequence[int],
    launcher: Launcher,
    settings: Settings,
    progress: Reporter | None,
    command: str,
) -> dict[str, Any]:
    """Measure our scorer at several sizes and return the document.

    Sizes that exceed the model or the data are left out, with the reason.

    Raises:
        InputError: No size could be measured.
        RuntimeError: An answer was wrong.
    """
    launcher.check(OURS)
    machine = machine_facts()
    points: list[Point] = []
    left_out: dict[str, str] = {}
    for n in sizes:
        (progress or Quiet()).say(f"n = {n}")
        try:
            points.append(measure_point(dataclasses.replace(case, n=n), launcher, settings))
        except InputError as error:
            left_out[str(n)] = str(error)
    if not points:
        raise InputError(f"no size could be measured; n = {sizes[0]}: {left_out[str(sizes[0])]}")
    return {
        "schema": SCHEMA,
        "kind": "curve",
        "command": command,
        "case": case_document(case, case.n, points[0].workload.dtype),
        "threads": launcher.threads,
        "repeats": settings.repeats,
        "machine": machine,
        "matmul_flops_per_second": measure_peaks(launcher, points[0].workload.dtype),
        "points": [_document(point) for point in points],
        "left_out": left_out,
        "exponents": exponents([(p.workload.n, p.quantities) for p in points]),
    }


def measure_point(case: Case, launcher: Launcher, settings: Settings) -> Point:
    """Measure one size in a separate process, so that its peak memory is its own."""
    workload = make_workload(case)
    ordered = workload.ordered(OURS)
    job = workload.job(
        ordered, threads=launcher.threads, cpus=launcher.cpus, repeats=settings.repeats
    )
    references = whole_prompts(workload, {OURS: ordered}, launcher)
    result = launcher.run(OURS, job)
    verdict = references.judge(OURS, result["scores"], workload.dtype)
    if not verdict.correct:
        raise RuntimeError(
            f"our scores at n = {workload.n} are wrong: |d log p| has median {verdict.median:.2g} "
            f"and maximum {verdict.maximum:.2g}"
        )
    return Point(workload, plan_flops(workload.plan, workload.config), result, verdict)


def exponents(points: Sequence[tuple[int, dict[str, float]]]) -> dict[str, float | None]:
    """Least-squares slopes of log quantity over log n; None with fewer than two sizes."""
    n = np.log([size for size, _ in points])
    if len(set(n.tolist())) < 2:
        return dict.fromkeys(FITTED)
    return {
        name: float(np.polyfit(n, np.log([found[name] for _, found in points]), 1)[0])
        for name in FITTED
    }


def _document(point: Point) -> dict[str, Any]:
    return {
        "n": point.workload.n,
        "seconds": point.result["seconds"],
        "median_seconds": point.quantities["seconds"],
        "tokens": point.workload.plan.n_tokens,
        "tokens_of_whole_prompts": point.workload.plan.naive_tokens,
        "flops": flops_document(point.flops),
        "kv_pool_bytes": point.result["details"]["kv_pool_bytes"],
        "peak_rss_bytes": point.result["peak_rss_bytes"],
        "answers": dataclasses.asdict(point.verdict),
    }
