"""Attention of a batch in the middle of a tree: ours, torch per segment, and FlexAttention.

Answers are checked before anything is timed. The extra columns are GFLOP/s and the fraction of the
rate of torch's matrix products in the same dtype, measured in the same process.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.attention_cases import (
    HEADS,
    IMPLEMENTATIONS,
    THREADS,
    by_definition,
    mid_tree_batch,
)
from benchmarks.engines.peers.gemm_peak import gemm_peak
from benchmarks.engines.peers.protocol import Job
from icm_fast import _core
from icm_fast.model.hardware import fast_bfloat16

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Largest difference, relative to the largest value."""


@pytest.fixture(scope="module", autouse=True)
def pinned_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    if request.param == "bfloat16" and (not fast_bfloat16() or _core.cpu_isa("bfloat16") is None):
        pytest.skip("this processor has no bfloat16 dot products")
    return str(request.param)


@pytest.fixture(scope="module")
def peak(dtype: str) -> float:
    """Operations per second of torch's matrix products."""
    rates = gemm_peak(Job([], [], "", dtype, THREADS, []))
    return float(rates["flops_per_second"])


@pytest.mark.parametrize("model", HEADS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
# torch.compile warns about its own deprecated calls.
@pytest.mark.filterwarnings("default:::torch")
def test_tree_attention(
    benchmark: BenchmarkFixture, implementation: str, model: str, dtype: str, peak: float
) -> None:
    batch = mid_tree_batch(model, dtype)
    expected = by_definition(batch)
    attend = IMPLEMENTATIONS[implementation](batch)
    with torch.inference_mode():
        error = float((attend().float() - expected).abs().max() / expected.abs().max())
        assert error <= TOLERANCE[dtype]
        benchmark.group = f"{model}, {dtype}"
        benchmark.pedantic(attend, rounds=7, warmup_rounds=1)
    rate = batch.flops / benchmark.stats.stats.median
    benchmark.extra_info |= {
        "tokens": batch.work.n_tokens,
        "segments": len(batch.work.segments),
        "gflop_per_second": rate / 1e9,
        "fraction_of_matmul": rate / peak,
    }
