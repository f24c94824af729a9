"""Sizes that no machine has, and machines that have less than was asked for."""

import subprocess
import sys

import numpy as np
import pytest

from icm_fast import _core
from icm_fast.config import SearchConfig
from icm_fast.engine.native import engine_settings

HUGE = 2**63 - 1


def attention(n_threads=1):
    return _core.TreeAttention("float32", n_threads)


@pytest.mark.parametrize(
    "sizes", [(2**40, 2, 4, 2**21), (HUGE, 1, 2, 1), (1, HUGE, 2, HUGE), (1, 1, HUGE - 1, 1)]
)
def test_pools_whose_size_overflows_are_refused_with_their_numbers(sizes):
    with pytest.raises(ValueError, match=" x ".join(map(str, sizes)) + ", more than"):
        attention().make_pool(*sizes)


def test_a_pool_that_does_not_fit_is_a_memory_error_with_its_numbers():
    message = "no memory for a pool of 140737488355328 bytes: 2 layers, 2 heads of 4, 10995116277"
    with pytest.raises(MemoryError, match=message):
        attention().make_pool(2, 2, 4, 2**40)


def decoder(**changes):
    sizes = {"hidden": 8, "intermediate": 8, "n_heads": 2, "n_kv_heads": 2, "head_dim": 4}
    rest = {"n_layers": 1, "norm_eps": 1e-6, "activation": "silu", "n_threads": 1}
    return _core.CpuDecoder(dtype="float32", **(sizes | rest | changes))


@pytest.mark.parametrize("name", ["hidden", "intermediate", "n_heads", "head_dim", "n_layers"])
@pytest.mark.parametrize("value", [2**24 + 2, 2**62, HUGE - 1])
def test_decoders_out_of_all_proportion_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}, more than 16777216"):
        decoder(**{name: value})


@pytest.mark.parametrize("n_slots", [0, -1, HUGE, 2**62])
def test_pools_of_a_decoder_have_possible_sizes(n_slots):
    with pytest.raises(ValueError, match=r"positive sizes|more than"):
        decoder().make_pool(n_slots)


@pytest.mark.parametrize("make", [attention, lambda n: decoder(n_threads=n)])
def test_more_threads_than_any_pool_has_are_refused(make):
    for n in (4097, 2**31 - 1):
        with pytest.raises(ValueError, match=f"n_threads is {n}, outside 1 .. 4096"):
            make(n)


FEW_THREADS = """
import resource, sys, threading
from icm_fast import _core
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
# Every thread maps a stack of its own, of 8 MiB or more.
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.RLIM_INFINITY))
resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20),) * 2)
shape = dict(dtype="float32", hidden=8, intermediate=8, n_heads=2, n_kv_heads=2, head_dim=4,
             n_layers=1, norm_eps=1e-6, activation="silu")
def count():
    return len(__import__("os").listdir("/proc/self/task"))
before = count()
for make in (lambda n: _core.TreeAttention("float32", n),
             lambda n: _core.CpuDecoder(n_threads=n, **shape)):
    try:
        make(4000)
    except RuntimeError as error:
        print(error)
    else:
        sys.exit("4000 threads were started")
    assert count() == before, "threads were left behind"
    make(2)
"""


def test_threads_that_cannot_start_are_an_error_and_leave_none_behind():
    done = subprocess.run(
        [sys.executable, "-c", FEW_THREADS],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("only ") and "of 4000 threads could" in line for line in lines)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_tokens": [HUGE]},
        {"n_tokens": [-HUGE - 1]},
        {"range_offsets": [0, 1], "range_begin": [-HUGE - 1], "range_end": [HUGE]},
        {"range_offsets": [0, 2], "range_begin": [0, 0], "range_end": [HUGE, HUGE]},
        {"range_offsets": [HUGE - 1, HUGE]},
        {"range_offsets": [-HUGE, 0]},
        {"own": [HUGE]},
        {"own": [-HUGE - 1]},
    ],
)
def test_segments_at_the_ends_of_64_bits_are_refused(changes):
    segments = {
        "n_tokens": [3],
        "own": [0],
        "range_offsets": [0, 0],
        "range_begin": [],
        "range_end": [],
    }
    ours = attention()
    pool = ours.make_pool(1, 2, 8, 8)
    arrays = {key: np.array(value, np.int64) for key, value in (segments | changes).items()}
    query = np.zeros((3, 2, 8), np.float32)
    with pytest.raises(ValueError, match=r"beyond 64 bits|outside|must cover all"):
        ours.attend(pool, 0, query, scaling=1.0, window=0, softcap=0.0, sinks=None, **arrays)


def test_slots_beyond_64_bits_are_refused():
    allocator = _core.RangeAllocator()
    assert allocator.allocate(HUGE - 1) == 0
    with pytest.raises(ValueError, match=r"a range of 2 slots after slot \d+ ends beyond 64 bits"):
        allocator.allocate(2)
    assert allocator.allocate(1) == HUGE - 1
    allocator.check_integrity()


def test_more_scores_than_an_engine_can_hold_are_refused():
    pairs, tables = np.zeros((0, 2), np.int32), np.zeros((0, 70_000, 70_000), np.uint8)
    with pytest.raises(ValueError, match=r"2147483647 x 70000 must be at most 2147483647"):
        _core.Engine(2**31 - 1, 70_000, pairs, tables, **engine_settings(SearchConfig()))
