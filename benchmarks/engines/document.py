"""The results of a benchmark as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks.engines.cases import Case
from benchmarks.engines.flops import Flops
from benchmarks.engines.run import Benchmark, Measurement

SCHEMA = 1
"""Increased when a key changes its meaning."""


def benchmark_document(benchmark: Benchmark, command: str) -> dict[str, Any]:
    """All numbers of a benchmark; times in seconds, rates in operations per second.

    Args:
        benchmark: The results.
        command: The command line that produced them.
    """
    workload = benchmark.workload
    return {
        "schema": SCHEMA,
        "kind": "evaluation",
        "command": command,
        "case": case_document(workload.case, workload.n, workload.dtype),
        "threads": benchmark.threads,
        **dataclasses.asdict(benchmark.settings),
        "machine": benchmark.machine,
        "matmul_flops_per_second": {
            dtype: {"before": before, "after": after}
            for dtype, (before, after) in benchmark.peaks.items()
        },
        "plan": {
            "tokens": workload.plan.n_tokens,
            "tokens_of_whole_prompts": workload.plan.naive_tokens,
            "flops": flops_document(benchmark.flops),
        },
        "peers": [_peer(benchmark, m) for m in benchmark.measurements],
    }


def case_document(case: Case, n: int, dtype: str) -> dict[str, Any]:
    """A case with the actual number of examples and dtype."""
    return {**dataclasses.asdict(case), "n": n, "dtype": dtype}


def flops_document(flops: Flops) -> dict[str, int]:
    """Operations of a plan."""
    return {"linear": flops.linear, "attention": flops.attention, "total": flops.total}


def status(measurement: Measurement) -> str:
    """``ok``, ``wrong`` or ``failed``."""
    if measurement.verdict is None:
        return "failed"
    return "ok" if measurement.correct else "wrong"


def _peer(benchmark: Benchmark, measurement: Measurement) -> dict[str, Any]:
    variant, result = measurement.variant, measurement.result
    verdict = measurement.verdict
    return {
        "name": variant.name,
        "peer": variant.peer,
        "order": variant.order,
        "options": variant.options,
        "status": status(measurement),
        "failure": measurement.failure,
        "seconds": _seconds(measurement) if measurement.correct else None,
        "ratio_to_ours": benchmark.ratio(measurement),
        "fraction_of_limit": benchmark.fraction(measurement),
        "answers": None if verdict is None else dataclasses.asdict(verdict),
        **{key: result.get(key) for key in _RESULT_KEYS},
    }


_RESULT_KEYS = (
    "n_prompts",
    "n_measured",
    "measured_share",
    "tokens_forwarded",
    "repeat_difference",
    "processors_used",
    "peak_rss_bytes",
    "versions",
    "details",
)


def _seconds(measurement: Measurement) -> dict[str, Any]:
    seconds = measurement.seconds
    return {
        "median": measurement.median,
        "min": min(seconds),
        "max": max(seconds),
        "repeats": seconds,
        "extrapolated": measurement.extrapolated,
    }
