"""TFLOP/s of attention over a tree's batches: ours against other libraries, each checked first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from benchmarks.engines.flops import keys_seen
from benchmarks.gpu.visit.record import PEAK, FallbackError, Record
from icm_fast import _core
from icm_fast.kernels.tree_attention import (
    AttentionWork,
    SegmentWork,
    cuda,
    naive,
    sdpa,
    select,
    varlen,
)
from icm_fast.kernels.tree_attention.versions import LIBRARIES, VERSIONS, Needs
from icm_fast.kernels.tree_attention.work import TreeAttention
from icm_fast.model.forward.tile_search import batch_work
from icm_fast.plan.uniform import uniform_plan

Attend = Callable[[], torch.Tensor]
"""Computes ``[heads, n_tokens, head_dim]``."""

LIMIT = 2e-2
"""Largest difference from the definition, relative to the largest value (bfloat16)."""

SIZES = ((256, 43), (64, 43), (256, 80))
"""Examples, and tokens of a demonstration with its label."""
TINY_SIZES = ((8, 9),)

_CHECKED_ROWS = 64
_MANY_SEGMENTS = 64
"""One call per segment is timed below this number only."""


@dataclass(frozen=True)
class Problem:
    """One batch of a plan.

    Attributes:
        n: Examples.
        demonstration: Tokens of one.
        batch: Number of the batch.
        query: ``[heads, n_tokens, head_dim]``.
        keys: ``[kv_heads, n_slots, head_dim]``.
        values: The same.
        work: The segments.
        flops: Products with the keys that each row sees.
    """

    n: int
    demonstration: int
    batch: int
    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    work: AttentionWork
    flops: int

    def by(self, attend: TreeAttention) -> Attend:
        """This attention by an implementation of ours."""
        scaling = float(self.query.shape[-1] ** -0.5)
        return lambda: attend(self.query, self.keys, self.values, self.work, scaling=scaling)

    def error(self, out: torch.Tensor) -> float:
        """Largest relative difference from the definition, on rows of three segments."""
        worst = 0.0
        segments = self.work.segments
        for whole in segments[:: max(1, len(segments) // 3)][:3]:
            n_rows = min(_CHECKED_ROWS, whole.end - whole.begin)
            lone = AttentionWork(
                (SegmentWork(0, n_rows, whole.ranges, whole.own, whole.start),), n_rows
            )
            rows = slice(whole.begin, whole.begin + n_rows)
            wanted = naive.tree_attention(
                self.query[:, rows].float(),
                self.keys.float(),
                self.values.float(),
                lone,
                scaling=float(self.query.shape[-1] ** -0.5),
            )
            difference = (out[:, rows].float() - wanted).abs().max() / wanted.abs().max()
            worst = max(worst, float(difference.nan_to_num(nan=torch.inf)))
        return worst


def attention(record: Record) -> None:
    """Time every implementation on the top of each tree and on its largest batch."""
    select_fastest(record)
    for n, demonstration in TINY_SIZES if record.tiny else SIZES:
        plan = uniform_plan(
            n,
            demonstration=demonstration,
            query=demonstration - 3,
            root=1,
            kv_budget_tokens=1 << 20,
            batch_tokens=16384,
        )
        largest = int(np.diff(plan.batch_offsets).argmax())
        for batch in sorted({1, largest}):
            _compare(record, _problem(record, plan, n, demonstration, batch))
        if not record.tiny:
            _dense(record, n * demonstration)


def select_fastest(record: Record) -> None:
    """Note it as a failure if the device's fastest kernel would not be taken."""
    if record.device.type != "cuda":
        return
    heads = torch.empty(8, 128, 128, dtype=torch.bfloat16, device=record.device)
    if reason := select.slower_because(heads, heads):
        record.failures.append(f"attention falls back: {reason}")
        record.line(name="attention falls back", failed=reason)


def _problem(
    record: Record, plan: _core.TreePlan, n: int, demonstration: int, batch: int
) -> Problem:
    heads, kv_heads, width = (4, 2, 64) if record.tiny else (32, 8, 128)
    work = batch_work(plan, batch)
    generator = torch.Generator(record.device).manual_seed(batch)

    def random(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator, device=record.device, dtype=torch.bfloat16)

    segments = plan.batch_segments[plan.batch_offsets[batch] : plan.batch_offsets[batch + 1]]
    keys = keys_seen(plan.start[segments], plan.n_tokens[segments], None)
    return Problem(
        n,
        demonstration,
        batch,
        random(work.n_tokens, heads, width).transpose(0, 1),
        random(kv_heads, int(plan.pool_tokens), width),
        random(kv_heads, int(plan.pool_tokens), width),
        work,
        4 * heads * width * keys,
    )


def _compare(record: Record, problem: Problem) -> None:
    for name, attend in _ours(record.device).items():
        record.attempt(name, partial(_time, record, problem, name, problem.by(attend)))
    if len(problem.work.segments) < _MANY_SEGMENTS:
        name = "torch, one call per segment"
        record.attempt(name, partial(_time, record, problem, name, problem.by(sdpa.tree_attention)))

    for name, attend in _libraries(record, problem).items():
        record.attempt(name, partial(_time, record, problem, name, problem.by(attend)))
    record.attempt("copies alone", partial(_copies, record, problem))


def _libraries(record: Record, problem: Problem) -> dict[str, TreeAttention]:
    """Other libraries as versions behind our interface; those that do not serve are noted."""
    if record.device.type != "cuda":  # a dry run: one of each kind, by plain torch
        return {
            "flex": VERSIONS["flex"].load(),
            "varlen": partial(varlen.tree_attention, library=by_torch),
        }
    found: dict[str, TreeAttention] = {}
    for version in LIBRARIES:
        if reason := version.unserved_because(Needs.of(problem.query, problem.values)):
            record.line(**_of(problem), name=version.name, not_timed=reason)
        else:
            found[version.name] = version.load()
    return found


def by_torch(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    sequences: varlen.Sequences,
    *,
    scaling: float,
    sliding_window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """A varlen library for dry runs: one call of torch's attention for each sequence."""
    if sliding_window or softcap or sinks is not None:
        raise ValueError("the peers are timed without windows, caps and sinks")
    parts = []
    offsets = (sequences.row_offsets, sequences.key_offsets)
    n_rows, n_keys = (torch.diff(o).tolist() for o in offsets)
    split = zip(query.split(n_rows), keys.split(n_keys), values.split(n_keys), strict=True)
    for part in split:
        q, k, v = (t.transpose(0, 1)[None] for t in part)
        bias = causal_lower_right(q.shape[2], k.shape[2])
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scaling)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


def _copies(record: Record, problem: Problem) -> None:
    """What the varlen libraries' copies of keys and values take of their time."""
    n_keys = 0

    def none(
        query: torch.Tensor, keys: torch.Tensor, *rest: object, **options: object
    ) -> torch.Tensor:
        nonlocal n_keys
        n_keys += len(keys)
        return query

    copies = problem.by(partial(varlen.tree_attention, library=none))
    copies()
    keys, ms = n_keys, record.milliseconds(copies, 3)
    record.line(**_of(problem), name="copies alone", ms=ms, keys=keys)


def _ours(device: torch.device) -> dict[str, TreeAttention]:
    """Our implementations on the device by name; each is asked for, so none can fall back.

    torch's one call per segment is timed for small batches only, and the definition on a CPU.
    """
    if device.type != "cuda":
        return {"naive": naive.tree_attention}
    names = (name for name in select.available(device) if name not in ("sdpa", "naive"))
    return {name: VERSIONS[name].load() for name in names}


def _of(problem: Problem) -> dict[str, object]:
    return {
        "n": problem.n,
        "demonstration": problem.demonstration,
        "batch": problem.batch,
        "segments": len(problem.work.segments),
        "rows": problem.work.n_tokens,
    }


def _time(record: Record, problem: Problem, name: str, attend: Attend) -> None:
    error = problem.error(attend())
    record.check_error(name, error, LIMIT)
    ms = record.milliseconds(attend)
    rate = problem.flops / ms * 1e3
    numbers = {"ms": ms, "tflops": rate / 1e12, "of_peak": rate / PEAK, "error": error}
    record.line(**_of(problem), name=name, **numbers)


def _dense(record: Record, length: int) -> None:
    """What the best dense kernels reach on one causal sequence of this length."""
    heads, kv_heads, width = 32, 8, 128
    like = torch.empty(0, device=record.device, dtype=torch.bfloat16)
    query, keys, values = (
        like.new_empty(1, h, length, width).normal_() for h in (heads, kv_heads, kv_heads)
    )
    flops = 4 * heads * width * length * (length + 1) // 2

    def measure(name: str, backend: SDPBackend) -> None:
        # No other may step in: torch raises where the one that is asked for cannot run.
        with sdpa_kernel([backend]):
            ms = record.milliseconds(
                lambda: F.scaled_dot_product_attention(
                    query, keys, values, is_causal=True, enable_gqa=True
                )
            )
        rate = flops / ms * 1e3
        numbers = {"ms": ms, "tflops": rate / 1e12, "of_peak": rate / PEAK}
        record.line(name=name, length=length, **numbers)

    for name, backend in (
        ("dense causal, cuDNN", SDPBackend.CUDNN_ATTENTION),
        ("dense causal, FlashAttention-2", SDPBackend.FLASH_ATTENTION),
    ):
        record.attempt(name, partial(measure, name, backend))


def small(record: Record) -> None:
    """A few attentions by the fastest CUDA kernel, small enough for compute-sanitizer."""
    from icm_fast.kernels.tree_attention import trial

    if record.device.type != "cuda":
        raise FallbackError("the CUDA kernels need a device")
    for problem in trial.problems((128,), record.device):
        if problem.query.dtype == torch.bfloat16:
            trial.check(cuda.wgmma_tree_attention, problem)
            record.line(name=problem.name)
