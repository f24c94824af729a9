"""Tiles selected by timing: the selection, what is stored of it, and who uses it."""

import json
import os
import subprocess
import sys

import pytest
import torch

from icm_fast.cli import run
from icm_fast.errors import InputError
from icm_fast.kernels import triton_devices
from icm_fast.kernels.tree_attention import naive, tuned_tiles
from icm_fast.kernels.tree_attention.tiles import SHORT_ROWS, Tile, TilePair
from icm_fast.kernels.tree_attention.tuned_tiles import HeadShape, store_tiles, stored_tiles
from icm_fast.model import load_model
from icm_fast.model.forward import tile_search
from icm_fast.model.forward.tile_search import LONG_TILES, SHORT_TILES, TimedTile, TreeSize, tune
from icm_fast.model.lazy import LazyModel
from tiny_models import byte_tokenizer, tiny_model

CPU = torch.device("cpu")
SHAPE = HeadShape(group=2, head_dim=16, value_dim=16, dtype=torch.float32)
PAIR = TilePair(Tile(32, 16, 4, 3), Tile(16, 32, 4, 5))
SMALL = TreeSize(n=3, demonstration=9, query=7, batch_tokens=64)

FORMER, SLOW, FAST, WRONG, TOO_LARGE = (Tile(16 * k, 16, 4, 3) for k in range(1, 6))
SECONDS = {FORMER: 2.0, SLOW: 3.0, FAST: 1.0, WRONG: 0.1}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ICM_FAST_CACHE", str(tmp_path))
    stored_tiles.cache_clear()
    yield tmp_path
    stored_tiles.cache_clear()


@pytest.fixture
def clock(monkeypatch):
    """Fixed times by tile, and a kernel that equals the definition except for one wrong tile."""
    triton = pytest.importorskip("icm_fast.kernels.tree_attention.triton")
    errors = pytest.importorskip("triton.runtime.errors")
    running = []

    def attend(*tensors, tile, **options):
        running.append(tile)
        if tile == TOO_LARGE:
            raise errors.OutOfResources(300_000, 232_448, "shared memory")
        return naive.tree_attention(*tensors, **options) * (1.01 if tile == WRONG else 1)

    def seconds(run, device):
        run()
        return SECONDS[running[-1]]

    monkeypatch.setattr(triton, "tree_attention", attend)
    monkeypatch.setattr(tile_search, "seconds", seconds)
    return monkeypatch


def tuned(**options):
    pair = TilePair(FORMER, FORMER)
    tiles = (SLOW, FAST, WRONG, TOO_LARGE)
    return tune(
        SHAPE, 1, CPU, former=pair, long_tiles=tiles, short_tiles=tiles[:1], size=SMALL, **options
    )


def test_the_fastest_right_tile_is_taken(clock):
    told = []
    found = tuned(report=lambda kind, timed: told.append((kind, timed)))
    assert found.pair == TilePair(FAST, FORMER)
    assert [timed.tile for timed in found.long] == [FAST, FORMER]
    assert [timed.tile for timed in found.short] == [FORMER, FORMER]
    assert [(kind, t.tile) for kind, t in told] == [
        *(("long", tile) for tile in (FORMER, SLOW, FAST, WRONG, TOO_LARGE)),
        *(("short", tile) for tile in (FORMER, SLOW)),
    ]
    reasons = {timed.tile: timed.reason for kind, timed in told if kind == "long"}
    assert reasons[WRONG].startswith("differs by 1.0e-02")
    assert "shared memory" in reasons[TOO_LARGE]
    assert {reasons[tile] for tile in (FORMER, SLOW, FAST)} == {""}


def test_times_are_sums_over_the_batches_of_a_tree(clock):
    found = tuned()
    n_batches, exact = divmod(found.long[0].seconds, SECONDS[FAST])
    assert n_batches > 2
    assert exact == 0
    assert found.long[1].seconds == n_batches * SECONDS[FORMER]


def test_short_segments_are_short(clock):
    works = []
    time = tile_search.TimedTree.time

    def spy(self, tile, batches):
        works.append([batch.work for batch in batches])
        return time(self, tile, batches)

    clock.setattr(tile_search.TimedTree, "time", spy)
    tuned()
    rows = [
        {SHAPE.group * (s.end - s.begin) for work in batches for s in work.segments}
        for batches in works
    ]
    assert max(rows[0]) > SHORT_ROWS
    assert max(rows[-1]) <= SHORT_ROWS


def test_without_a_usable_tile_there_is_an_error(clock):
    pair = TilePair(WRONG, WRONG)
    with pytest.raises(
        InputError, match=r"no tile can be used for long segments \(first tile: differs by"
    ):
        tune(SHAPE, 1, CPU, former=pair, long_tiles=(), short_tiles=(), size=SMALL)


def test_what_a_compiler_cannot_do_is_passed_over(clock):
    def attend(*tensors, tile, **options):
        if tile == FAST:
            raise RuntimeError("PassManager::run failed\nmore")
        return naive.tree_attention(*tensors, **options)

    clock.setattr("icm_fast.kernels.tree_attention.triton.tree_attention", attend)
    clock.setattr(tile_search, "seconds", lambda run, device: 1.0 if run() is not None else 0.0)
    told = []
    found = tuned(report=lambda kind, timed: told.append(timed))
    assert found.pair.long == FORMER
    assert [timed.reason for timed in told if timed.tile == FAST] == ["PassManager::run failed"]


@pytest.mark.parametrize("name", ["OutOfMemoryError", "AcceleratorError"])
def test_a_device_that_has_stopped_ends_the_search(clock, name):
    def attend(*tensors, tile, **options):
        raise type(name, (RuntimeError,), {})("illegal address")

    clock.setattr("icm_fast.kernels.tree_attention.triton.tree_attention", attend)
    with pytest.raises(RuntimeError, match="illegal address"):
        tuned()


def test_products_of_float32_that_take_minutes_to_compile_are_left_out():
    large, small = Tile(128, 128, 4, 3), Tile(32, 32, 4, 3)
    for dtype, expected in ((torch.float32, [False, True]), (torch.bfloat16, [True, True])):
        shape = HeadShape(4, 128, 128, dtype)
        assert [tile_search._compiles_fast(t, shape) for t in (large, small)] == expected


def test_candidates():
    assert len(set(LONG_TILES)) == len(LONG_TILES) == 64
    assert {tile.block_m for tile in SHORT_TILES} == {SHORT_ROWS}
    assert len(SHORT_TILES) == 16


def test_what_was_stored_is_found(cache):
    assert stored_tiles(SHAPE, CPU) is None
    path = store_tiles(PAIR, SHAPE, CPU)
    assert path.parent == cache / "kernel-tiles"
    assert stored_tiles(SHAPE, CPU) == PAIR


def test_another_shape_device_or_triton_has_its_own(monkeypatch):
    store_tiles(PAIR, SHAPE, CPU)
    for other in (
        HeadShape(4, 16, 16, torch.float32),
        HeadShape(2, 32, 16, torch.float32),
        HeadShape(2, 16, 32, torch.float32),
        HeadShape(2, 16, 16, torch.bfloat16),
    ):
        assert stored_tiles(other, CPU) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    assert stored_tiles(SHAPE, torch.device("cuda", 0)) is None
    stored_tiles.cache_clear()
    monkeypatch.setattr(tuned_tiles, "version", lambda package: "99.0")
    assert stored_tiles(SHAPE, CPU) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("short"),
        lambda content: content.update(long=[64, 64, 4]),
        lambda content: content.update(long=[64, 64, 4, 0]),
        lambda content: content.update(long=[64, 64, 4, 5.5]),
        lambda content: content["key"].update(group=9),
    ],
)
def test_a_damaged_file_is_refused(change):
    path = store_tiles(PAIR, SHAPE, CPU)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"does not hold tiles of HeadShape.*; delete it"):
        stored_tiles(SHAPE, CPU)
    path.write_text("[")
    with pytest.raises(InputError, match="delete it"):
        stored_tiles(SHAPE, CPU)


def test_a_launch_takes_stored_tiles_of_its_device():
    triton = pytest.importorskip("icm_fast.kernels.tree_attention.triton")
    assert triton.device_tiles(SHAPE, CPU) != PAIR
    store_tiles(PAIR, SHAPE, CPU)
    assert triton.device_tiles(SHAPE, CPU) == PAIR


def test_from_the_command_to_a_launch(cache, tmp_path):
    """In the interpreter: tiles are found and stored, and the next process launches with them."""
    pytest.importorskip("triton", reason="triton is not installed")
    script = tmp_path / "tune.py"
    script.write_text(
        """
import sys
import torch
from icm_fast.model.forward import tile_search
from icm_fast.kernels.tree_attention import triton
from icm_fast.kernels.tree_attention.random_case import Sizes, random_case
from icm_fast.kernels.tree_attention.tiles import Tile
from icm_fast.kernels.tree_attention.tuned_tiles import HeadShape, store_tiles, stored_tiles
from icm_fast.model.lazy import LazyModel
from icm_fast.model import load_model
from tiny_models import byte_tokenizer, tiny_model

shape, device = HeadShape(2, 16, 16, torch.float32), torch.device("cpu")
if sys.argv[1] == "tune":
    found = tile_search.tune(
        shape, 1, device, former=triton.device_tiles(shape, device),
        long_tiles=(Tile(64, 64, 4, 3),), short_tiles=(Tile(16, 64, 4, 3),),
        size=tile_search.TreeSize(n=2, demonstration=10, query=9, batch_tokens=64),
    )
    store_tiles(found.pair, shape, device)
    print(found.pair)
else:
    launched, launch = [], triton._launch
    triton._launch = lambda *a: (launched.append(a[5]), launch(*a))
    case = random_case([((40,), 20), ((3,), 1)], Sizes(2, 1, 16, 16), torch.float32)
    triton.tree_attention(case.query, case.keys, case.values, case.work, scaling=1.0)
    pair = stored_tiles(shape, device)
    assert launched == [pair.long, pair.short], launched
    print(pair)
"""
    )
    environment = os.environ | {"TRITON_INTERPRET": "1", "ICM_FAST_CACHE": str(cache)}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    said = [
        subprocess.run(
            [sys.executable, str(script), step],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for step in ("tune", "launch")
    ]
    assert said[0] == said[1]
    assert said[0].startswith("TilePair(long=Tile(")


def test_a_tile_without_a_time_is_never_the_best():
    with pytest.raises(InputError):
        tile_search._fastest([TimedTile(SLOW, None, "differs")], "long")


@pytest.fixture
def tiny(monkeypatch):
    """A model of 4 heads, 2 of keys and values, 8 wide, under any name."""
    loaded = load_model((tiny_model("llama"), byte_tokenizer()), device="cpu")
    monkeypatch.setattr(LazyModel, "load", lambda self: loaded)
    return loaded


def test_the_command_needs_a_gpu(tiny, capsys):
    assert run(["tune-kernels", "--model", "tiny"]) == 2
    said = capsys.readouterr().err
    assert "device cpu has no Triton kernels" in said
    assert "compute capability 8.0" in said


def test_the_command_refuses_a_tree_of_one(capsys):
    assert run(["tune-kernels", "--model", "tiny", "--n", "1"]) == 2
    assert "--n 1 is too small" in capsys.readouterr().err


def test_the_command_refuses_heads_that_no_tile_serves(monkeypatch, capsys):
    loaded = load_model((tiny_model("llama", head_dim=512), byte_tokenizer()), device="cpu")
    monkeypatch.setattr(LazyModel, "load", lambda self: loaded)
    monkeypatch.setattr(triton_devices, "is_interpreted", lambda device: True)
    assert run(["tune-kernels", "--model", "wide"]) == 2
    assert "heads of wide are 512 wide; the kernel takes up to 256" in capsys.readouterr().err


def test_the_command_tells_and_keeps_what_it_found(tiny, monkeypatch, capsys):
    triton = pytest.importorskip("icm_fast.kernels.tree_attention.triton")
    shape = HeadShape(2, 8, 8, torch.float32)
    monkeypatch.setattr(triton_devices, "is_interpreted", lambda device: True)

    def found(asked, kv_heads, device, *, former, size, report):
        assert (asked, kv_heads, device, size.n) == (shape, 2, CPU, 16)
        report("long", TimedTile(FAST, None, "out of shared memory"))
        assert former == triton.device_tiles(shape, CPU)
        long = (TimedTile(PAIR.long, 0.001), TimedTile(former.long, 0.002))
        return tile_search.Tuning(PAIR, long, (TimedTile(PAIR.short, 0.003),) * 2)

    monkeypatch.setattr(tile_search, "tune", found)
    assert run(["tune-kernels", "--model", "tiny", "--n", "16"]) == 0
    out, err = capsys.readouterr()
    assert "long segments: 32 x 16, 4 warps, 3 stages: 1.00 ms, before: " in out
    assert "short segments: 16 x 32, 4 warps, 5 stages: 3.00 ms" in out
    assert f"stored in {tuned_tiles.tiles_file(shape, CPU)}" in out
    assert "long 48 x 16, 4 warps, 3 stages: out of shared memory" in err
    assert stored_tiles(shape, CPU) == PAIR
