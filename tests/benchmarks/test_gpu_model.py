"""Predictions for GPUs: never faster than the chip, and what they are made of."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.gpu.model import GPUS, KERNELS, RATES, SHAPES, Gpu, KernelRate, Shape, Tile, predict
from icm_fast.plan.uniform import uniform_plan

COMPILED = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "cuda_compile.json"
PLAN = uniform_plan(64, demonstration=43, query=40, root=1, batch_tokens=16384)


@pytest.mark.parametrize(
    ("kernel", "gpu"), [(name, gpu) for name, kernel in KERNELS.items() for gpu in kernel.rates]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_prediction_beats_the_data_sheet(kernel, gpu, shape):
    rate, tile = KERNELS[kernel].rates[gpu], KERNELS[kernel].tile
    launches = list(predict(PLAN, SHAPES[shape], GPUS[gpu], rate, tile))
    assert sum(launch.n_tokens for launch in launches) == PLAN.total_tokens
    tokens, layers = PLAN.total_tokens, SHAPES[shape].layers
    least = 2 * SHAPES[shape].layer_weights * layers * tokens / GPUS[gpu].flops
    assert sum(launch.linear_seconds for launch in launches) > least
    for launch in launches:
        assert 0 < launch.attention_share < rate.attention
        assert 0 < launch.tile_share <= 1
        parts = (launch.linear_seconds, launch.attention_seconds, launch.elementwise_seconds)
        assert launch.seconds == pytest.approx(sum(parts))
        assert launch.elementwise_seconds < launch.eager_seconds / 2


def test_weights_are_those_of_the_published_models():
    """Parameters without embeddings: 6.98 and 68.4 billion."""
    small, large = SHAPES["llama-3.1-8b"], SHAPES["llama-3.1-70b"]
    assert small.layers * small.layer_weights == pytest.approx(6.98e9, rel=0.01)
    assert large.layers * large.layer_weights == pytest.approx(68.4e9, rel=0.01)


TINY = Shape("tiny", 64, 1, 1, 1, 64, 128)
CHIP = Gpu("chip", 1e12, 1e15, 1, launch_seconds=0.0)


def test_bytes_between_the_products_are_those_of_the_kernels():
    """Two norms of four rows, three heads there and back with their angles, three of units."""
    shape = Shape("tiny", hidden=8, layers=1, heads=1, kv_heads=1, head_dim=4, intermediate=16)
    assert shape.element_work(own=True) == (2 * (2 * 4 * 8 + 2 * 3 * 4 + 2 * 4 + 3 * 16), 4)
    n_bytes, n_launches = SHAPES["llama-3.1-8b"].element_work(own=False)
    assert n_launches == 32
    # What transformers' layer was seen to move; it has some numbers for each row besides.
    assert n_bytes == pytest.approx(599_104, rel=1e-3)


def test_rows_and_keys_that_are_computed_for_nothing_are_lost():
    """A token of 128 sees 64.5 keys, itself among them. A tile computes up to its last row's."""
    rate = KernelRate(1.0, 1.0, "made up")
    plan = uniform_plan(2, demonstration=64, query=64)
    halves = next(predict(plan, TINY, CHIP, rate, Tile(128, 2)))
    whole = next(predict(plan, TINY, CHIP, rate, Tile(64, 2)))
    assert (whole.n_segments, whole.n_tokens) == (2, 256)
    assert whole.tile_share == 64.5 / 96  # the first half's tiles have one block, the others two
    assert halves.tile_share == 64.5 / 128
    assert halves.attention_seconds == pytest.approx(whole.attention_seconds * 128 / 96)


def test_blocks_of_more_than_one_range_are_gathered():
    """Behind a root of 10 tokens, 128 are the end of block 0, block 1 and the beginning of 2."""
    plan = SimpleNamespace(
        parent=np.array([-1, 0], np.int32),
        n_tokens=np.array([10, 128]),
        start=np.array([0, 10]),
        kv_offset=np.array([300, 0]),
        batch_offsets=np.array([0, 1, 2]),
        batch_segments=np.array([0, 1], np.int32),
    )
    free = KernelRate(1.0, 1.0, "made up")
    dear = replace(free, gathering=0.5)
    root, apart = predict(plan, TINY, CHIP, free, Tile(128, 1))
    assert root.in_one_piece == 0.0  # a block that ends early
    assert apart.in_one_piece == 1 / 3
    slower = list(predict(plan, TINY, CHIP, dear, Tile(128, 1)))[1]
    assert slower.attention_seconds == pytest.approx(apart.attention_seconds * (1 / 3 + 2 * 2 / 3))
    # Where the pool has them side by side, the root's end is none.
    plan.kv_offset = np.array([300, 310])
    assert list(predict(plan, TINY, CHIP, free, Tile(128, 1)))[1].in_one_piece == 2 / 3


def test_memory_can_be_what_limits():
    slow = Gpu("slow memory", 1e18, 1e9, 108)
    launches = predict(PLAN, SHAPES["llama-3.1-8b"], slow, RATES["A100"])
    assert {launch.bound for launch in launches} == {"memory"}


def test_a_slow_cache_can_be_what_limits():
    """Tiles of twice the rows gather about half the bytes."""
    slow = Gpu("slow cache", 1e18, 1e18, 108, l2_bandwidth=1e9)

    def gathered(tile):
        launches = list(predict(PLAN, SHAPES["llama-3.1-8b"], slow, RATES["H100"], tile))
        assert {launch.bound for launch in launches} == {"cache"}
        return max(launch.gathered for launch in launches)

    assert gathered(Tile(64, 2)) == pytest.approx(2 * gathered(Tile(128, 1)), rel=0.15)


# Of each device, the kernel that is taken there.
@pytest.mark.parametrize(("gpu", "kernel"), [("A100", "mma"), ("H100", "wgmma"), ("H200", "wgmma")])
def test_the_top_levels_of_a_large_tree_are_predicted_at_60_percent_of_the_peak(gpu, kernel):
    """Halves, quarters and eighths of the examples: launches of two to eight segments."""
    plan = uniform_plan(
        256, demonstration=43, query=40, root=1, kv_budget_tokens=1 << 20, batch_tokens=16384
    )
    details = KERNELS[kernel]
    for shape in SHAPES.values():
        launches = list(predict(plan, shape, GPUS[gpu], details.rates[gpu], details.tile))
        top = [launch for launch in launches if 2 <= launch.n_segments <= 8]
        assert len(top) == 3
        for launch in top:
            assert launch.attention_share >= 0.60


def test_tiles_are_those_that_the_compiler_reports():
    rows = json.loads(COMPILED.read_text())["kernels"]
    # Two threads to a row; with wgmma there are some besides that only copy.
    for name, products, copiers in (("attend_tile", "mma", 0), ("attend_warpgroups", "wgmma", 128)):
        found = [
            row
            for row in rows
            if (row["name"], row["head_dim"], row["architecture"]) == (name, 128, "sm_90a")
        ]
        assert found
        for row in found:
            threads = 2 * KERNELS[products].tile.rows + copiers
            by_registers = 65536 // (threads * -(-row["registers"] // 8) * 8)
            by_memory = 228 * 1024 // (row["shared"] + 1024)
            assert min(by_registers, by_memory) == KERNELS[products].tile.blocks_per_sm
