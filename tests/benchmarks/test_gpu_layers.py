"""The measurement beside the GPU model, on the processor and a small shape."""

import time

import torch

from benchmarks.gpu.layers import measure
from benchmarks.gpu.model import GPUS, RATES, Shape, predict
from icm_fast.model.forward.tile_search import batch_work, seconds
from icm_fast.plan.uniform import uniform_plan
from tiny_models import one_thread  # noqa: F401

SHAPE = Shape("small", 64, 3, 4, 2, 16, 96)


def test_every_batch_is_measured_beside_its_prediction():
    plan = uniform_plan(8, demonstration=9, query=7, root=1, batch_tokens=40)
    found = list(
        measure(
            plan,
            SHAPE,
            GPUS["A100"],
            RATES["A100"],
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
    )
    expected = list(predict(plan, SHAPE, GPUS["A100"], RATES["A100"]))
    assert len(found) == len(expected) == plan.n_batches > 3
    assert sum(row.n_tokens for row in found) == plan.total_tokens
    for row, launch in zip(found, expected, strict=True):
        assert (row.n_tokens, row.n_segments) == (launch.n_tokens, launch.n_segments)
        assert row.predicted_attention == launch.attention_seconds
        assert row.error <= 1e-5
        assert row.linear_seconds > 0 < row.attention_seconds


def test_the_work_of_a_batch_is_what_its_plan_says():
    plan = uniform_plan(8, demonstration=9, query=7, root=1, batch_tokens=40)
    for batch in range(plan.n_batches):
        work = batch_work(plan, batch)
        first, last = plan.batch_offsets[batch : batch + 2]
        for segment, own in zip(plan.batch_segments[first:last], work.segments, strict=True):
            assert own.end - own.begin == plan.n_tokens[segment]
            assert sum(end - begin for begin, end in own.ranges) == plan.start[segment] == own.start


def test_the_median_leaves_out_the_first_calls():
    naps = iter([0.2, 0.2, *[0.001] * 5])
    assert seconds(lambda: time.sleep(next(naps)), torch.device("cpu")) < 0.1
