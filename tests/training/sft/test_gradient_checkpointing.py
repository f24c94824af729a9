"""``gradient_checkpointing=auto``: what it means where, and that it is recorded."""

import json
from types import SimpleNamespace

import pytest
import torch

from icm_fast import InputError
from icm_fast.training.sft import TuningConfig, fine_tune
from icm_fast.training.sft.train import resolve_checkpointing
from tiny_models import mixed_labels, one_thread, reviews, tiny_loaded  # noqa: F401 - by its import


@pytest.mark.parametrize(
    ("device", "n_parameters", "able", "expected"),
    [
        ("cuda", 2_000_000_000, True, True),
        ("cuda", 2_000_000_000, False, False),
        ("cuda", 900_000_000, True, False),
        ("cpu", 2_000_000_000, True, False),
    ],
)
def test_large_models_on_a_gpu_hold_fewer_activations(device, n_parameters, able, expected):
    model = SimpleNamespace(
        parameters=lambda: [torch.empty(n_parameters, device="meta")],
        supports_gradient_checkpointing=able,
    )
    base = SimpleNamespace(device=torch.device(device), model=model)
    assert resolve_checkpointing(TuningConfig(), base).gradient_checkpointing is expected
    for asked in (True, False):
        config = TuningConfig(gradient_checkpointing=asked)
        assert resolve_checkpointing(config, base) is config


def test_other_words_are_refused():
    with pytest.raises(InputError, match="must be true or false, or auto, got 'yes'"):
        TuningConfig(gradient_checkpointing="yes")


def test_the_decision_is_recorded(tmp_path):
    """So the folder is that of the same training wherever ``auto`` comes to the same."""
    dataset = reviews()

    def tune(**changes):
        config = TuningConfig(epochs=1, dtype="float32", **changes)
        labels = mixed_labels(dataset)
        return fine_tune(
            dataset, labels, model=tiny_loaded("llama"), config=config, output_dir=tmp_path / "a"
        )

    tuned = tune()
    recorded = json.loads((tmp_path / "a/tuning.json").read_text())["identity"]["config"]
    assert recorded["gradient_checkpointing"] is False
    assert tune(gradient_checkpointing=False).model.fingerprint == tuned.model.fingerprint
    with pytest.raises(InputError, match="gradient_checkpointing is False there and True here"):
        tune(gradient_checkpointing=True)
