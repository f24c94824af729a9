"""Data and models that tests share; absent ones are skipped, with the command that helps."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from icm_fast.assets.locate import EMBEDDED_MODELS, embedded_model
from icm_fast.errors import InputError

if TYPE_CHECKING:
    from icm_fast.model import LoadedModel

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = "ICM_FAST_SHARED_DATA"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` where there is no device."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in on_gpu:
        item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt; a shell's background jobs start with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the authors' data sets: ``$ICM_FAST_SHARED_DATA`` or ../shared/data."""
    chosen = os.environ.get(SHARED_DATA)
    folder = Path(chosen) if chosen else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; name their folder in {SHARED_DATA}")
    return folder


def _installed(name: str) -> LoadedModel:
    try:
        embedded_model(name)
    except InputError as error:
        pytest.skip(str(error))
    from icm_fast.model import load_model

    return load_model(name, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    """SmolLM2-135M in float32 on the CPU; mark the test ``model``."""
    return _installed("smollm2")


@pytest.fixture(scope="session")
def gemma3() -> LoadedModel:
    """Gemma-3-270M in float32 on the CPU; mark the test ``model``."""
    assert "gemma3-270m" in EMBEDDED_MODELS
    return _installed("gemma3-270m")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m gpu``, import nothing but files with such tests.

    On a machine with a device, packages that only other tests need may be missing.
    """
    if config.option.markexpr != "gpu" or not collection_path.name.startswith("test_"):
        return None
    return "pytest.mark.gpu" not in collection_path.read_text(encoding="utf-8") or None
