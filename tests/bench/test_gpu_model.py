"""Predictions for GPUs: never faster than the chip, and what they are made of."""

import pytest

from icm_fast.bench.gpu_model import GPUS, RATES, SHAPES, Gpu, KernelRate, Shape, Tile, predict
from icm_fast.uniform_plan import uniform_plan

PLAN = uniform_plan(64, demonstration=43, query=40, root=1, batch_tokens=16384)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_prediction_beats_the_data_sheet(gpu, shape):
    launches = list(predict(PLAN, SHAPES[shape], GPUS[gpu], RATES[gpu]))
    assert sum(launch.n_tokens for launch in launches) == PLAN.total_tokens
    tokens, layers = PLAN.total_tokens, SHAPES[shape].layers
    least = 2 * SHAPES[shape].layer_weights * layers * tokens / GPUS[gpu].flops
    assert sum(launch.linear_seconds for launch in launches) > least
    for launch in launches:
        assert 0 < launch.attention_share < RATES[gpu].attention
        assert 0 < launch.tile_share <= 1
        assert launch.seconds == launch.linear_seconds + launch.attention_seconds


def test_weights_are_those_of_the_published_models():
    """Parameters without embeddings: 6.98 and 68.4 billion."""
    small, large = SHAPES["llama-3.1-8b"], SHAPES["llama-3.1-70b"]
    assert small.layers * small.layer_weights == pytest.approx(6.98e9, rel=0.01)
    assert large.layers * large.layer_weights == pytest.approx(68.4e9, rel=0.01)


def test_rows_that_no_tile_shares_are_lost():
    shape = Shape("tiny", 64, 1, 1, 1, 64, 128)
    gpu = Gpu("chip", 1e12, 1e15, 1, launch_seconds=0.0)
    rate = KernelRate(1.0, 1.0, "made up")
    plan = uniform_plan(2, demonstration=64, query=64)
    whole = next(predict(plan, shape, gpu, rate, Tile(rows=128)))
    halves = next(predict(plan, shape, gpu, rate, Tile(rows=256)))
    assert whole.tile_share == 1.0
    assert halves.tile_share == 0.5
    assert halves.attention_seconds == 2 * whole.attention_seconds


def test_memory_can_be_what_limits():
    slow = Gpu("slow memory", 1e18, 1e9, 108)
    launches = predict(PLAN, SHAPES["llama-3.1-8b"], slow, RATES["A100"])
    assert {launch.bound for launch in launches} == {"memory"}
