"""Time one exact U(D), cold: all peers on the same token ids, with answers verified first."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from benchmarks.engines.cases import Case
from benchmarks.engines.flops import Flops, plan_flops
from benchmarks.engines.gguf_export import gguf_file
from benchmarks.engines.launch import Launcher, PeerError
from benchmarks.engines.references import References, make_references
from benchmarks.engines.variants import OURS, Variant
from benchmarks.engines.verify import Verdict
from benchmarks.engines.workload import OrderedPrompts, Workload, make_workload
from icm_fast.engine.progress import Quiet
from icm_fast.errors import InputError
from icm_fast.model.hardware import fast_bfloat16
from icm_fast.runs.provenance import machine_facts
from icm_fast.types import Reporter


@dataclass(frozen=True, slots=True)
class Settings:
    """How each peer is timed.

    Attributes:
        repeats: Timed repeats, each with a cold cache.
        max_seconds: Time limit of one repeat; slower peers measure a part. 0: no limit.
    """

    repeats: int = 5
    max_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise InputError(f"repeats = {self.repeats} is too small; pass 1 or more")
        if self.max_seconds < 0:
            raise InputError(f"max_seconds = {self.max_seconds} is negative; pass 0 for no limit")


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of one variant.

    Attributes:
        variant: The variant.
        result: What the peer returned (see ``peers.protocol.measure``); empty if it failed.
        verdict: Its answers against the references; None if it failed.
        failure: Why it failed; empty if it did not.
    """

    variant: Variant
    result: dict[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None
    failure: str = ""

    @property
    def correct(self) -> bool:
        """Whether the answers are right, so that the speed counts."""
        return self.verdict is not None and self.verdict.correct

    @property
    def seconds(self) -> list[float]:
        """Seconds of each repeat for all prompts, extrapolated if only a part was measured."""
        return [s / self.result["measured_share"] for s in self.result["seconds"]]

    @property
    def median(self) -> float:
        """Median of ``seconds``."""
        return statistics.median(self.seconds)

    @property
    def extrapolated(self) -> bool:
        """Whether only a part of the prompts was measured."""
        return bool(self.result["n_measured"] < self.result["n_prompts"])


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One run of the protocol; ratios are only meaningful within it.

    Attributes:
        workload: What was measured.
        settings: How it was timed.
        threads: Threads of every peer.
        machine: Facts about the machine.
        flops: Operations of the plan.
        peaks: For each dtype the rate of matrix products before and after the peers, in
            operations per second.
        measurements: One per variant, in the order in which they ran.
    """

    workload: Workload
    settings: Settings
    threads: int
    machine: dict[str, Any]
    flops: Flops
    peaks: dict[str, tuple[float, float]]
    measurements: list[Measurement]

    @property
    def peak(self) -> float:
        """The machine's rate in the dtype of the case, the better of the two measured."""
        return max(self.peaks[self.workload.dtype])

    def ratio(self, measurement: Measurement) -> float | None:
        """Median over our median; None unless both have right answers."""
        ours = next((m for m in self.measurements if m.variant.name == OURS), None)
        if ours is None or not (ours.correct and measurement.correct):
            return None
        return measurement.median / ours.median

    def fraction(self, measurement: Measurement) -> float | None:
        """Operations of the plan over the machine's peak in the same time; None if wrong."""
        if not measurement.correct:
            return None
        return self.flops.total / (measurement.median * self.peak)


def run_benchmark(
    case: Case,
    variants: list[Variant],
    launcher: Launcher,
    settings: Settings,
    progress: Reporter | None,
) -> Benchmark:
    """Measure the variants of a case.

    Raises:
        InputError: Data, the model or a peer's environment is missing.
        RuntimeError: The references contradict one another.
    """
    for variant in variants:
        launcher.check(variant.peer)
    machine = machine_facts()
    shown = progress or Quiet()
    shown.say(f"{case.name}: tokens and plan")
    workload = make_workload(case)
    prompts = {order: workload.ordered(order) for order in sorted({v.order for v in variants})}
    shown.say("rate of matrix products")
    before = measure_peaks(launcher, workload.dtype)
    shown.say("reference scores in float32")
    references = make_references(workload, prompts, launcher)
    measurements = []
    for variant in variants:
        shown.say(f"{variant.name}: {settings.repeats} repeats")
        measured = measure_variant(workload, variant, prompts, references, launcher, settings)
        measurements.append(measured)
    after = measure_peaks(launcher, workload.dtype)
    peaks = {dtype: (before[dtype], after[dtype]) for dtype in before}
    flops = plan_flops(workload.plan, workload.config)
    return Benchmark(workload, settings, launcher.threads, machine, flops, peaks, measurements)


def measure_peaks(launcher: Launcher, dtype: str) -> dict[str, float]:
    """Rates of matrix products in float32 and, if it is fast or requested, in bfloat16."""
    fast = {"bfloat16"} if fast_bfloat16() else set()
    return {name: launcher.gemm_peak(name) for name in sorted({"float32", dtype} | fast)}


def measure_variant(
    workload: Workload,
    variant: Variant,
    prompts: dict[str, OrderedPrompts],
    references: References,
    launcher: Launcher,
    settings: Settings,
) -> Measurement:
    """Run one variant and judge its answers; a failure is a measurement too."""
    options = dict(variant.options)
    try:
        if variant.peer == "llama-cpp":
            options["gguf"] = str(gguf_file(workload.folder, workload.dtype).resolve())
        job = workload.job(
            prompts[variant.order],
            threads=launcher.threads,
            cpus=launcher.cpus,
            repeats=settings.repeats,
            max_seconds=settings.max_seconds,
            options=options,
        )
        result = launcher.run(variant.peer, job)
    except (PeerError, InputError) as error:
        return Measurement(variant, failure=str(error))
    precision = variant.precision(workload.dtype)
    verdict = references.judge(variant.order, result["scores"], precision)
    return Measurement(variant, result, verdict)
