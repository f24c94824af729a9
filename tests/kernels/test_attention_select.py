from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from icm_fast.kernels import triton_devices
from icm_fast.kernels.tree_attention import cuda, sdpa, select
from icm_fast.kernels.tree_attention.select import select_for_device, select_tree_attention

CUDA = torch.device("cuda", 0)


def test_the_cpu_takes_sdpa():
    assert select_for_device(torch.device("cpu"), 64) is sdpa.tree_attention


def test_a_device_takes_triton(ampere):
    from icm_fast.kernels.tree_attention import triton

    assert select_for_device(CUDA, 64) is triton.tree_attention
    assert select_for_device(CUDA, 256) is triton.tree_attention


def test_triton_comes_after_the_cuda_library(ampere, tmp_path):
    path = tmp_path / "libicm_fast_cuda.so"
    ampere.setattr(cuda, "library_path", lambda: path)
    assert select.available(CUDA) == ("triton", "sdpa", "naive")
    path.touch()
    assert select.available(CUDA) == ("cuda", "triton", "sdpa", "naive")


def test_without_a_device_nothing_runs_there(ampere):
    """torch's CUDA builds are also installed on machines without a device."""
    ampere.setattr(torch.cuda, "is_available", lambda: False)
    assert "triton" not in select.available("cuda")


def test_heads_beyond_every_tile_take_sdpa(ampere):
    assert select_for_device(CUDA, 257) is sdpa.tree_attention


def test_a_call_takes_what_serves_it(ampere):
    """Stand-ins for tensors, since there is no device."""
    from icm_fast.kernels.tree_attention import triton

    def on_device(dtype, width=64):
        return SimpleNamespace(device=CUDA, dtype=dtype, shape=(4, 7, width))

    def selected(query, values=None):
        return select_tree_attention(query, values or query)

    ampere.setattr(cuda, "library_path", lambda: Path("absent"))
    assert selected(on_device(torch.bfloat16)) is triton.tree_attention
    assert selected(on_device(torch.float64)) is sdpa.tree_attention
    wide = on_device(torch.bfloat16, 512)
    assert selected(on_device(torch.bfloat16), wide) is sdpa.tree_attention
    ampere.setattr(cuda, "library_path", lambda: Path(__file__))
    assert selected(on_device(torch.bfloat16)) is cuda.tree_attention
    assert selected(on_device(torch.float32)) is triton.tree_attention


def test_older_devices_take_sdpa(ampere):
    ampere.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert select_for_device(CUDA, 64) is sdpa.tree_attention


def test_devices_of_other_makers_take_sdpa(ampere):
    ampere.setattr(torch.version, "cuda", None)
    assert select_for_device(CUDA, 64) is sdpa.tree_attention


@pytest.mark.parametrize("old", ["2.3.1", "3.5.1+git123"])
def test_an_older_triton_is_not_used(ampere, old):
    ampere.setattr(triton_devices, "version", lambda name: old)
    with pytest.warns(RuntimeWarning, match=rf"need triton 3\.6, found {old[:3]}; "):
        assert select_for_device(CUDA, 64) is sdpa.tree_attention


@pytest.mark.parametrize("known", ["3.6.0", "3.7.1"])
def test_what_torch_brings_is_used_on_devices(ampere, recwarn, known):
    ampere.setattr(triton_devices, "version", lambda name: known)
    triton_devices.has_triton_kernels.cache_clear()
    assert triton_devices.has_triton_kernels(CUDA)
    assert not len(recwarn)
    ampere.setattr(triton_devices, "INTERPRETED", True)
    assert triton_devices.is_interpreted(torch.device("cpu")) == (known == "3.7.1")


def test_without_triton_sdpa_serves(ampere):
    def absent(name):
        raise PackageNotFoundError(name)

    ampere.setattr(triton_devices, "version", absent)
    with pytest.warns(RuntimeWarning, match="found none"):
        assert select_for_device(CUDA, 64) is sdpa.tree_attention


def test_a_device_is_warned_of_once(ampere, recwarn):
    ampere.setattr(triton_devices, "version", lambda name: "3.5.0")
    for _ in range(2):
        assert not triton_devices.has_triton_kernels(CUDA)
    assert len(recwarn) == 1


def test_devices_that_are_too_old_are_not_warned_of(ampere, recwarn):
    ampere.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    ampere.setattr(triton_devices, "version", lambda name: "3.6.0")
    assert not triton_devices.has_triton_kernels(CUDA)
    assert not len(recwarn)
