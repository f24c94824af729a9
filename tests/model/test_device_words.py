"""What is said of a model on a GPU: which implementations run, and why none is faster."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from icm_fast.config import SearchConfig
from icm_fast.engine import doctor
from icm_fast.engine.search import search
from icm_fast.kernels import triton_devices
from icm_fast.kernels.tree_attention import cuda, measured, trial, versions
from icm_fast.kernels.tree_attention.tuned_tiles import HeadShape
from icm_fast.model.forward import device, path
from icm_fast.model.forward.device import DeviceForward
from icm_fast.model.forward.generic import GenericForward
from icm_fast.model.forward.path import path_of, warn_of_slow_device
from icm_fast.runs.finished import read_run
from icm_fast.scoring import factory, local
from tiny_models import (
    SINGLE,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
)

GPU = torch.device("cuda", 0)


class Placed(SimpleNamespace):
    """A tensor of some shape that is said to be on a device."""

    def __getitem__(self, rows):
        return self


class OnDevice(DeviceForward):
    """A forward pass of our own, without weights."""

    def __init__(self):
        pass

    @property
    def kernels(self):
        return {"norms": triton_norm}


class ByTransformers(GenericForward):
    def __init__(self):
        pass


def triton_norm():
    """Stands for a kernel."""


triton_norm.__module__ = "icm_fast.kernels.add_rms_norm.triton"


@pytest.fixture
def hopper(monkeypatch, tmp_path):
    """A machine that looks as if it had an H100, Triton, and the CUDA kernels with boxes."""
    pytest.importorskip("triton", reason="triton is not installed")
    library = tmp_path / "libicm_fast_cuda.so"
    library.touch()
    monkeypatch.setattr(cuda, "library_path", lambda: library)
    monkeypatch.setattr(cuda, "copies_boxes", lambda keys, values: True)
    monkeypatch.setattr(trial, "select_products", lambda device: "wgmma")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setenv("ICM_FAST_CACHE", str(tmp_path / "cache"))
    measured.stored_times.cache_clear()
    triton_devices.has_triton_kernels.cache_clear()
    yield monkeypatch
    triton_devices.has_triton_kernels.cache_clear()
    measured.stored_times.cache_clear()


def placed(monkeypatch, dtype=torch.bfloat16, width=128):
    """A model with such heads, all on the device."""
    weight = Placed(device=GPU, dtype=dtype, shape=(512, 256))
    heads = Placed(device=GPU, dtype=dtype, shape=(8, 1, width))
    monkeypatch.setattr(path, "_heads", lambda loaded: (heads, heads))
    monkeypatch.setattr(path, "_options", lambda loaded: (None, None))
    monkeypatch.setattr(device, "unknown_because", lambda model: "")
    model = SimpleNamespace(
        dtype=dtype,
        parameters=lambda: [weight],
        get_output_embeddings=lambda: SimpleNamespace(weight=weight),
    )
    name = str(dtype).removeprefix("torch.")
    return SimpleNamespace(model=model, device=GPU, dtype_name=name)


def test_the_fastest_of_all_needs_no_reason(hopper, recwarn):
    found = path_of(placed(hopper), OnDevice())
    assert found.kernels == {
        "attention": "cuda (wgmma)",
        "copies of keys": "boxes",
        "label scores": "triton",
        "norms": "triton",
    }
    assert (found.name, found.device, found.slower_because) == ("device kernels", "cuda:0", "")
    warn_of_slow_device(found)
    assert not len(recwarn)


def test_libraries_that_do_not_serve_are_told_with_the_reason(hopper):
    hopper.setattr(versions, "installed", lambda package: "1" if package == "torch" else "")
    found = path_of(placed(hopper), OnDevice())
    unmeasured = "not measured on this device for these heads; `icm-fast tune-kernels` does"
    assert found.libraries == {
        "flex": "triton is not installed",
        "flash_attn_4": "flash-attn-4 is not installed",
        "flash_attn": "flash-attn is not installed",
        "torch_flash": unmeasured,
    }
    (said,) = (f for f in doctor._ways(found) if f.check == "attention by others")
    assert f"flash_attn: flash-attn is not installed; torch_flash: {unmeasured}" in said.detail


@pytest.mark.parametrize("options", [(None, None), (30.0, None), (None, torch.zeros(8))])
def test_a_library_that_was_measured_to_be_faster_is_told(hopper, options):
    """But not where it lacks an option that the model's attention has."""
    shape = HeadShape(1, 128, 128, torch.bfloat16)
    times = measured.Times("cuda_wgmma", {"cuda_wgmma": 1.0, "torch_flash": 0.5})
    measured.store_times(times, shape, GPU)
    hopper.setattr(trial, "failure", lambda name, device, dims: "")
    loaded = placed(hopper)
    hopper.setattr(path, "_options", lambda loaded: options)
    found = path_of(loaded, OnDevice())
    if options == (None, None):
        assert found.kernels["attention"] == "varlen (torch_flash)"
        assert "torch_flash" not in found.libraries
        assert found.slower_because == ""
    else:
        assert found.kernels["attention"] == "cuda (wgmma)"
        assert "it has no" in found.libraries["torch_flash"]


def test_the_options_of_a_model_are_found():
    capped = tiny_loaded("gemma2", generic=True)
    cap = capped.model.config.attn_logit_softcapping
    assert cap
    assert path._options(capped) == (cap, None)
    assert path._options(tiny_loaded("llama", generic=True)) == (None, None)


def test_a_model_on_the_processor_is_told_of_no_library():
    assert path_of(tiny_loaded("gpt_neox"), ByTransformers()).libraries == {}


def test_copies_row_by_row_are_told(hopper):
    hopper.setattr(cuda, "copies_boxes", lambda keys, values: False)
    found = path_of(placed(hopper), OnDevice())
    assert found.kernels["copies of keys"] == "rows"
    with pytest.warns(RuntimeWarning, match="copies of keys by rows.* cannot copy keys in boxes"):
        warn_of_slow_device(found)


@pytest.mark.parametrize(
    ("change", "attention", "reason"),
    [
        ("no library", "triton", "the CUDA kernels are not built"),
        ("float32", "triton", "the CUDA kernels take bfloat16 or float16, not float32"),
        ("width 96", "triton", "take heads 64, 128 or 256 wide, not 96"),
        ("width 256", "cuda (wgmma)", "heads 256 wide have no kernel with wgmma"),
        ("width 512", "sdpa", "not 512, and the Triton kernel does not take these heads either"),
        ("wgmma failed", "cuda", "the kernel with wgmma did not pass its trial"),
        ("mma asked for", "cuda", "ICM_FAST_CUDA_PRODUCTS=mma asks for it"),
        ("all failed", "triton", "no CUDA kernel passed its trial on this device"),
    ],
)
def test_every_slower_attention_has_its_reason(hopper, tmp_path, change, attention, reason):
    heads = {"float32": {"dtype": torch.float32}}.get(change, {})
    if change.startswith("width"):
        heads = {"width": int(change.split()[1])}
    if change == "no library":
        hopper.setattr(cuda, "library_path", lambda: tmp_path / "absent")
    if change == "mma asked for":
        hopper.setenv("ICM_FAST_CUDA_PRODUCTS", "mma")
    products = {"wgmma failed": "mma", "all failed": None}.get(change, "wgmma")
    hopper.setattr(trial, "select_products", lambda device: products)
    found = path_of(placed(hopper, **heads), OnDevice())
    assert found.kernels["attention"] == attention
    assert reason in found.slower_because
    assert "copies of keys" not in found.kernels
    with pytest.warns(RuntimeWarning, match="slower than this GPU could be: device kernels"):
        warn_of_slow_device(found)


def test_without_triton_everything_is_told_once(hopper):
    hopper.setattr(triton_devices, "version", lambda name: "3.5.0")
    with pytest.warns(RuntimeWarning, match="found 3.5"):
        found = path_of(placed(hopper), ByTransformers())
    assert found.kernels == {
        "attention": "cuda (wgmma)",
        "copies of keys": "boxes",
        "label scores": "torch",
    }
    assert found.name == "transformers"
    assert found.slower_because.count("Triton kernels need triton 3.6") == 1


def test_a_model_on_the_processor_is_not_warned_of(recwarn):
    warn_of_slow_device(path_of(tiny_loaded("gpt_neox"), ByTransformers()))
    assert not len(recwarn)


def said_to_be(where):
    """A path of a model on a device."""
    kernels = {"attention": "triton", "label scores": "triton"}
    return path.ForwardPath("device kernels", where, "bfloat16", 1, "", kernels, "no reason")


@pytest.mark.parametrize("where", ["cuda:0", "cpu"])
def test_the_summary_of_a_search_on_a_device_says_how_it_was_computed(
    tmp_path, monkeypatch, recwarn, where
):
    """And a warning does, once for each scorer; summaries of CPUs stay as they were."""
    monkeypatch.setattr(local, "path_of", lambda *a, **k: said_to_be(where))
    dataset, config = reviews(SINGLE), SearchConfig(max_evaluations=2, n_initial=2)
    search(dataset, model=tiny_loaded("llama"), config=config, output_dir=tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    warned = [str(w.message) for w in recwarn if "slower than this GPU" in str(w.message)]
    if where == "cpu":
        assert "computing" not in summary
        assert not warned
        return
    assert summary["computing"]["kernels"] == {"attention": "triton", "label scores": "triton"}
    assert summary["computing"]["slower_because"] == "no reason"
    assert len(warned) == 1
    assert "attention by triton, label scores by triton; not faster, since no reason" in warned[0]
    assert read_run(tmp_path).summary["computing"] == summary["computing"]  # the digest holds


def test_blocks_of_examples_say_it_too(monkeypatch):
    monkeypatch.setattr(local, "path_of", lambda *a, **k: said_to_be("cuda:1"))
    config = SearchConfig(context_demonstrations=4)
    with pytest.warns(RuntimeWarning, match="on cuda:1"):
        scorer = factory.make_scorer(tiny_loaded("llama"), reviews(SINGLE), config)
    assert scorer.path.device == "cuda:1"
    assert np.isfinite(scorer.score(np.zeros(len(scorer._pieces), np.int32)).scores).all()
