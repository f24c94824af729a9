"""Fixtures of the kernel tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from interpreter import Interpreter

from icm_fast.kernels import triton_devices
from icm_fast.kernels.tree_attention import cuda, trial

REPOSITORY = Path(__file__).resolve().parent.parent.parent
EMULATION = "ICM_FAST_EMULATED_CUDA"
BUILT = REPOSITORY / "build" / "native-tests" / "libicm_fast_cuda_emulated.so"


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    """Runs Triton kernels without a device; skipped without triton."""
    pytest.importorskip("triton", reason="triton is not installed")
    worker = Interpreter()
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def emulated() -> cuda.CudaLibrary:
    """The CUDA kernels on the emulated device that `make native-tests` builds."""
    path = Path(os.environ.get(EMULATION, BUILT))
    if not path.is_file():
        pytest.skip(f"no emulated device at {path}; build it with `make native-tests`")
    return cuda.CudaLibrary(path)


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A machine that looks as if it had an NVIDIA device of capability 8.0."""
    pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    monkeypatch.setattr(trial, "select_products", lambda device: "mma")
    triton_devices.has_triton_kernels.cache_clear()
    yield monkeypatch
    triton_devices.has_triton_kernels.cache_clear()
