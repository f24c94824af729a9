"""Threads of torch and of native code inside the limits of a container."""

import pytest
import torch

from icm_fast.model import sharing
from icm_fast.model.forward.cpu import cpu_decoder
from tiny_models import one_thread, tiny_loaded  # noqa: F401


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sharing, "available_processors", lambda: 2)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("threads", "native"), [(1, 1), (2, 2), (3, 2)])
def test_native_code_takes_the_fewer_of_torch_and_the_container(threads, native):
    torch.set_num_threads(threads)
    assert sharing.native_threads() == native
    assert cpu_decoder(tiny_loaded("llama")) is not None


def test_torch_is_kept_within_a_quota_and_never_raised(monkeypatch):
    torch.set_num_threads(3)
    sharing.use_available_processors()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    sharing.use_available_processors()
    assert torch.get_num_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    sharing.use_available_processors()
    assert torch.get_num_threads() == 3
