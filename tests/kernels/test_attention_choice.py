from importlib.metadata import PackageNotFoundError

import pytest
import torch

from icm_fast.kernels.tree_attention import choice, sdpa

CUDA = torch.device("cuda", 0)


@pytest.fixture
def ampere(monkeypatch):
    """A machine that looks as if it had an NVIDIA device of capability 8.0."""
    pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    choice._has_kernels.cache_clear()
    yield monkeypatch
    choice._has_kernels.cache_clear()


def test_the_cpu_takes_sdpa():
    assert choice.tree_attention_on(torch.device("cpu"), 64) is sdpa.tree_attention


def test_a_device_takes_triton(ampere):
    from icm_fast.kernels.tree_attention import triton

    assert choice.tree_attention_on(CUDA, 64) is triton.tree_attention
    assert choice.tree_attention_on(CUDA, 256) is triton.tree_attention


def test_heads_beyond_every_tile_take_sdpa(ampere):
    assert choice.tree_attention_on(CUDA, 257) is sdpa.tree_attention


def test_older_devices_take_sdpa(ampere):
    ampere.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choice.tree_attention_on(CUDA, 64) is sdpa.tree_attention


def test_devices_of_other_makers_take_sdpa(ampere):
    ampere.setattr(torch.version, "cuda", None)
    assert choice.tree_attention_on(CUDA, 64) is sdpa.tree_attention


@pytest.mark.parametrize("old", ["2.3.1", "3.6.0+git123"])
def test_an_older_triton_is_not_asked(ampere, old):
    ampere.setattr(choice, "version", lambda name: old)
    assert choice.tree_attention_on(CUDA, 64) is sdpa.tree_attention


def test_without_triton_sdpa_serves(ampere):
    def absent(name):
        raise PackageNotFoundError(name)

    ampere.setattr(choice, "version", absent)
    assert choice.tree_attention_on(CUDA, 64) is sdpa.tree_attention
