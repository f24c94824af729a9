"""Which version of attention serves: ours, unless a library was measured to be faster."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from icm_fast.errors import InputError
from icm_fast.kernels.tree_attention import cuda, measured, select, trial, versions
from icm_fast.kernels.tree_attention.kept import kept_file
from icm_fast.kernels.tree_attention.measured import Times, store_times, stored_times
from icm_fast.kernels.tree_attention.tuned_tiles import HeadShape
from icm_fast.kernels.tree_attention.versions import LIBRARIES, VERSIONS, Needs
from icm_fast.model.forward import tile_search, version_search
from icm_fast.model.forward.tile_search import TreeSize
from icm_fast.model.forward.version_search import time_versions

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
SHAPE = HeadShape(4, 128, 128, torch.bfloat16)
PACKAGES = {"torch": "2.11.0", "triton": "3.6.0", "flash-attn": "2.8.4", "icm-fast": "1"}


@pytest.fixture
def hopper(monkeypatch, tmp_path):
    """A machine that looks as if it had an H100, our kernels, and flash-attn, not flash-attn-4."""
    library = tmp_path / "libicm_fast_cuda.so"
    library.write_bytes(b"code")
    monkeypatch.setattr(cuda, "library_path", lambda: library)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(trial, "select_products", lambda device: "wgmma")
    monkeypatch.setattr(trial, "failure", lambda name, device, head_dims: "")
    for module in (versions, measured):
        monkeypatch.setattr(module, "installed", lambda package: PACKAGES.get(package, ""))
    monkeypatch.setenv("ICM_FAST_CACHE", str(tmp_path / "cache"))
    caches = (measured.stored_times, measured._failure)
    for cached in caches:
        cached.cache_clear()
    yield monkeypatch
    for cached in caches:
        cached.cache_clear()


def heads(n, shape=SHAPE, device=GPU):
    return SimpleNamespace(device=device, dtype=shape.dtype, shape=(n, 7, shape.head_dim))


QUERY, POOL = heads(32), heads(8)


def selected(**options):
    return versions.name_of(select.select_tree_attention(QUERY, POOL, **options))


def reasons(**options):
    attend = select.select_tree_attention(QUERY, POOL, **options)
    return select.libraries_because(QUERY, POOL, attend, **options)


def measure(**seconds):
    store_times(Times("cuda_wgmma", {"cuda_wgmma": 1.0, **seconds}), SHAPE, GPU)


def test_there_is_one_registry():
    assert list(VERSIONS) == [
        *("cuda_wgmma", "cuda", "triton"),
        *("flex", "flash_attn_4", "flash_attn", "torch_flash"),
        *("sdpa", "naive"),
    ]
    assert [one.name for one in LIBRARIES] == ["flex", "flash_attn_4", "flash_attn", "torch_flash"]
    assert {one.name for one in VERSIONS.values() if one.splits} == {"cuda_wgmma", "cuda"}


def test_names_are_found_again():
    pytest.importorskip("triton", reason="triton is not installed")
    for name, version in VERSIONS.items():
        assert versions.name_of(version.load()) == name


def test_without_a_measurement_ours_serves(hopper):
    assert selected() == "cuda_wgmma"
    found = reasons()
    assert list(found) == [one.name for one in LIBRARIES]
    assert found.pop("flash_attn_4") == "flash-attn-4 is not installed"
    assert set(found.values()) == {
        "not measured on this device for these heads; `icm-fast tune-kernels` does"
    }
    assert select.slower_because(heads(32, HeadShape(4, 256, 256, torch.bfloat16)), POOL)


@pytest.mark.parametrize(
    ("seconds", "serves"),
    [
        ({"flex": 0.92}, "cuda_wgmma"),  # 1.087 times as fast
        ({"flex": 0.90}, "flex"),  # 1.11 times
        ({"flex": 0.8, "flash_attn": 0.7, "torch_flash": 0.75}, "flash_attn"),
        ({"flex": 1.5, "torch_flash": 2.0}, "cuda_wgmma"),
    ],
)
def test_a_library_serves_that_is_faster_by_more_than_a_tenth(hopper, seconds, serves):
    measure(**seconds)
    assert selected() == serves
    found = reasons()
    assert serves not in found
    assert len(found) == 4 - (serves != "cuda_wgmma")


def test_the_others_have_their_reasons(hopper):
    measure(flex=0.92, torch_flash=2.0)
    assert reasons() == {
        "flex": "measured 1.09 times as fast as cuda_wgmma, not by more than a tenth",
        "flash_attn_4": "flash-attn-4 is not installed",
        "flash_attn": "it failed when it was measured; `icm-fast tune-kernels` says why",
        "torch_flash": "measured 0.50 times as fast as cuda_wgmma, not by more than a tenth",
    }
    measure(flex=0.5, torch_flash=0.8)
    assert reasons()["torch_flash"] == "measured 1.25 times as fast as cuda_wgmma"


def test_where_a_library_serves_nothing_faster_is_missed(hopper):
    """Whatever ours would be: a library was measured to be faster than it."""
    hopper.setattr(trial, "select_products", lambda device: "mma")
    ours = select.select_ours(QUERY, POOL)
    assert "wgmma did not pass" in select.slower_because(QUERY, POOL, ours)
    measure(flex=0.5)
    assert select.slower_because(QUERY, POOL, select.select_tree_attention(QUERY, POOL)) == ""


def test_options_that_a_library_lacks_are_served_by_ours(hopper):
    measure(torch_flash=0.5)
    assert selected() == "torch_flash"
    assert selected(softcap=30.0) == "cuda_wgmma"
    assert selected(sinks=torch.zeros(32)) == "cuda_wgmma"
    assert reasons(softcap=30.0)["torch_flash"] == "it has no soft-capped scores"
    assert reasons(sinks=torch.zeros(32))["flash_attn"] == "it has no sinks"


def test_a_library_that_fails_its_trial_does_not_serve(hopper):
    tried = []

    def failure(name, device, head_dims):
        tried.append((name, device, head_dims))
        return "plain, 128 wide: differs by 0.3"

    hopper.setattr(trial, "failure", failure)
    measure(flex=0.5)
    with pytest.warns(RuntimeWarning, match="flex was measured .* differs by 0.3") as warned:
        assert selected() == "cuda_wgmma"
    assert len(warned) == 1
    assert reasons()["flex"] == "plain, 128 wide: differs by 0.3"  # and no second warning
    assert tried == [("flex", GPU, (128,))]


def test_the_environment_asks_for_ours(hopper):
    measure(flex=0.5)
    hopper.setenv(select.PRODUCTS_SETTING, "mma")
    assert selected() == "cuda"
    assert set(reasons().values()) == {"ICM_FAST_CUDA_PRODUCTS=mma asks for a kernel of ours"}


def test_times_are_of_one_device_shape_and_set_of_versions(hopper):
    measure(flex=0.5)
    assert stored_times(replace(SHAPE, group=1), GPU) is None
    assert stored_times(replace(SHAPE, dtype=torch.float16), GPU) is None
    for change in (
        lambda: hopper.setitem(PACKAGES, "flash-attn", "2.9.0"),
        lambda: cuda.library_path().write_bytes(b"other code"),
        lambda: hopper.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200"),
    ):
        stored_times.cache_clear()
        assert stored_times(SHAPE, GPU) is not None
        change()
        stored_times.cache_clear()
        assert stored_times(SHAPE, GPU) is None
        measure(flex=0.5)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("seconds"),
        lambda content: content.update(ours="triton"),
        lambda content: content["seconds"].update(flex=-1.0),
        lambda content: content["seconds"].update(another=1.0),
        lambda content: content["key"].update(group=9),
    ],
)
def test_a_damaged_file_is_refused(hopper, change):
    measure(flex=0.5)
    path = kept_file(measured._FOLDER, measured._key(SHAPE, GPU))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    stored_times.cache_clear()
    with pytest.raises(InputError, match="does not hold times of versions; delete it"):
        selected()


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (Needs(SHAPE, CPU), "libraries are used on NVIDIA GPUs only"),
        (Needs(replace(SHAPE, dtype=torch.float32), GPU), "bfloat16 or float16, not float32"),
        (Needs(replace(SHAPE, head_dim=100), GPU), "8, 16, ... 256 numbers, not 128"),
        (Needs(replace(SHAPE, value_dim=264), GPU), "8, 16, ... 256 numbers, not 264"),
        (Needs(replace(SHAPE, value_dim=64), GPU), "values as wide as keys only"),
        (Needs(SHAPE, GPU, softcap=True), ""),
        (Needs(SHAPE, GPU, sinks=True), "no sinks"),
    ],
)
def test_what_flash_attention_does_not_take_is_said(hopper, needs, reason):
    found = VERSIONS["flash_attn"].unserved_because(needs)
    assert reason in found if reason else not found


def test_older_devices_and_those_of_others_have_none(hopper):
    hopper.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "8.0" in VERSIONS["flex"].unserved_because(Needs(SHAPE, GPU))
    hopper.setattr(torch.version, "cuda", None)
    assert "NVIDIA" in VERSIONS["flex"].unserved_because(Needs(SHAPE, GPU))
    hopper.undo()
    assert select.libraries_because(heads(4, device=CPU), POOL, None) == {}


# --- Measuring -----------------------------------------------------------------------------------


SMALL = HeadShape(2, 8, 8, torch.float32)


def timed(monkeypatch, costs, **loaded):
    """Time versions on a CPU where each has its cost per call, and its plan costs 10 more."""
    kept = {}

    def cost(attend):
        def run(query, keys, values, work, *, scaling):
            kept["cost"] = costs[attend.__name__] + 10.0 * (attend not in work.plans)
            work.plans[attend] = True
            return attend(query, keys, values, work, scaling=scaling)

        return run

    ours = cost(loaded.pop("ours"))
    monkeypatch.setattr(version_search, "select_ours", lambda query, pool: ours)
    monkeypatch.setattr(version_search, "name_of", lambda attend: "sdpa")
    fakes = [
        replace(VERSIONS[name], load=lambda f=f: cost(f), unserved_because=lambda needs: "")
        for name, f in loaded.items()
    ]
    monkeypatch.setattr(version_search, "LIBRARIES", fakes)
    monkeypatch.setattr(
        version_search, "seconds", lambda run, device: (run(), run(), kept["cost"])[2]
    )
    monkeypatch.setattr(trial, "failure", lambda name, device, dims: "")
    said = []
    size = TreeSize(n=3, demonstration=5, query=4, batch_tokens=16)
    found = time_versions(
        SMALL, 1, CPU, n_layers=5, size=size, report=lambda *line: said.append(line)
    )
    return found, said


def right(query, keys, values, work, *, scaling):
    return VERSIONS["sdpa"].load()(query, keys, values, work, scaling=scaling)


def faster(*tensors, scaling):
    return right(*tensors, scaling=scaling)


def wrong(*tensors, scaling):
    return right(*tensors, scaling=scaling) + 1


def failing(*tensors, scaling):
    raise NotImplementedError("no such\nheads")


def fatal(*tensors, scaling):
    raise torch.OutOfMemoryError("no memory")


COSTS = {"right": 3.0, "faster": 2.0, "wrong": 0.1, "failing": 0.1}


def test_versions_are_timed_with_a_share_of_their_plans(monkeypatch):
    found, said = timed(
        monkeypatch, COSTS, ours=right, flex=faster, flash_attn=wrong, torch_flash=failing
    )
    n_batches = found.seconds["sdpa"] / (3.0 + 10.0 / 5)
    assert n_batches == int(n_batches) > 1
    assert found.seconds == {"sdpa": n_batches * 5.0, "flex": n_batches * 4.0}
    assert found.fastest_library() == "flex"
    assert [(name, seconds is None) for name, seconds, _ in said] == [
        ("sdpa", False),
        ("flex", False),
        ("flash_attn", True),
        ("torch_flash", True),
    ]
    assert "differs by" in said[2][2]
    assert said[3][2] == "no such"


def test_what_ends_the_device_ends_the_search(monkeypatch):
    with pytest.raises(torch.OutOfMemoryError):
        timed(monkeypatch, {"right": 1.0, "fatal": 1.0}, ours=right, flex=fatal)


def test_a_library_is_tried_before_it_is_timed(monkeypatch):
    monkeypatch.setattr(
        version_search, "LIBRARIES", [replace(VERSIONS["flex"], unserved_because=lambda n: "")]
    )
    monkeypatch.setattr(trial, "failure", lambda name, device, dims: f"{name} failed at {dims}")
    monkeypatch.setattr(tile_search, "_REPEATS", 1)
    said = []
    size = TreeSize(n=2, demonstration=5, query=4, batch_tokens=16)
    found = time_versions(
        SMALL, 1, CPU, n_layers=1, size=size, report=lambda *line: said.append(line)
    )
    assert list(found.seconds) == [found.ours] == ["sdpa"]
    assert said[1:] == [("flex", None, "flex failed at (8,)")]
