"""What tests of kernels share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from interpreter import Interpreter


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    """Runs Triton kernels without a device; skipped where there is no triton."""
    pytest.importorskip("triton", reason="triton is not installed")
    worker = Interpreter()
    yield worker
    worker.close()
