"""A tiny model in a folder and a truthfulqa file that its tokenizer knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_case import LocalLauncher, case_on, claims_tokenizer

from benchmarks.engines.cases import Case
from run_fakes import write_claims
from tiny_models import tiny_model


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models by family."""
    folders = {}
    for family in ("llama", "gemma3_text"):
        folders[family] = folder = tmp_path_factory.mktemp(family)
        tiny_model(family).save_pretrained(folder)
        claims_tokenizer().save_pretrained(folder)
    return folders


@pytest.fixture(scope="session")
def claims_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A truthfulqa file of 80 claims, two per question; 80 are too many for the tiny models."""
    path = tmp_path_factory.mktemp("claims") / "data.jsonl"
    write_claims(path, n_questions=40)
    return path


@pytest.fixture(scope="session")
def tiny_case(model_folders: dict[str, Path], claims_file: Path) -> Case:
    """Eight claims on the tiny llama, in float32."""
    return case_on(model_folders["llama"], claims_file)


@pytest.fixture
def launcher() -> LocalLauncher:
    """A launcher that spoils nothing."""
    return LocalLauncher({})
