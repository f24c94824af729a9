"""Trainings report nothing to anybody."""

import os

import numpy as np
import pytest
from huggingface_hub import constants

from icm_fast.model.adapters import foreign_code
from icm_fast.training.sft import TuningConfig, fine_tune
from tiny_models import one_thread, reviews, tiny_loaded  # noqa: F401 - in force by its import


@pytest.fixture
def sent(monkeypatch):
    """What huggingface_hub would send."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    messages = []
    telemetry = pytest.importorskip("huggingface_hub.utils._telemetry")
    monkeypatch.setattr(telemetry, "_start_telemetry_thread", lambda: None)
    monkeypatch.setattr(telemetry._TELEMETRY_QUEUE, "put", messages.append)
    telemetry.send_telemetry("heard")
    assert messages.pop()["topic"] == "heard"
    return messages


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_fine_tuning_sends_nothing(sent, method):
    config = TuningConfig(epochs=1, batch_size=4, method=method, dtype="float32")
    labels = np.array([0, 1, -1, 0, 1, -1, 1, 0], np.int32)
    fine_tune(reviews(), labels, model=tiny_loaded("llama"), config=config)
    assert sent == []


def test_settings_are_as_they_were_afterwards(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    before = constants.HF_HUB_DISABLE_TELEMETRY
    with foreign_code():
        assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
        assert os.environ["WANDB_MODE"] == "disabled"
        assert constants.HF_HUB_DISABLE_TELEMETRY
    assert os.environ["WANDB_MODE"] == "online"
    assert "HF_HUB_DISABLE_TELEMETRY" not in os.environ
    assert constants.HF_HUB_DISABLE_TELEMETRY is before
