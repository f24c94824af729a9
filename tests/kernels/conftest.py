"""What tests of kernels share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from interpreter import Interpreter

from icm_fast.kernels import triton_devices


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    """Runs Triton kernels without a device; skipped where there is no triton."""
    pytest.importorskip("triton", reason="triton is not installed")
    worker = Interpreter()
    yield worker
    worker.close()


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A machine that looks as if it had an NVIDIA device of capability 8.0."""
    pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    triton_devices.has_triton_kernels.cache_clear()
    yield monkeypatch
    triton_devices.has_triton_kernels.cache_clear()
